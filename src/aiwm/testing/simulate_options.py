"""What `aiwm simulate` may be told, checked: each wrong value is answered by one sentence."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from aiwm.kit.settings import Settings
from aiwm.protocol.errors import Invalid
from aiwm.testing.faults import Faults

MOST_NODES, MOST_GPUS = 20_000, 64

_ABOUT = (
    "Runs the daemons of many nodes in this process, with engines and telemetry that are simulated and everything else "
    "as it is. Uses the login of `aiwm login`, or signs in at --url. The nodes are called sim-0001 and so on, carry "
    "the label simulated=true, and are removed at the end."
)


@dataclass(frozen=True, slots=True)
class Options:
    """A command line that was understood. Seconds."""

    nodes: int
    gpus: int
    seconds: float | None
    url: str | None
    username: str | None
    password_stdin: bool
    key_file: Path | None
    keep: bool
    remove: bool
    faults: Faults
    seed: int
    data_dir: str | None
    tls_ca: str | None
    log_level: str

    def password(self, settings: Settings) -> str:
        """From standard input, or admin's of `AIWM_ADMIN_PASSWORD`. Raises `Invalid`."""
        given = sys.stdin.readline().rstrip("\r\n") if self.password_stdin else settings.admin_password
        if not given:
            raise Invalid("cannot sign in: no password; give --password-stdin, or set AIWM_ADMIN_PASSWORD for admin")
        return given

    def key(self) -> str | None:
        """The API key of `--key-file`. Raises `Invalid`."""
        if self.key_file is None:
            return None
        try:
            return self.key_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"cannot read the key file {self.key_file}: {error}") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see: {self.prog} --help\n")


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 19 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return read


def _number(least: float, most: float, unit: str = "") -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text.removesuffix(unit) if unit else text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}{unit}")
        return value

    return read


def _parser() -> _Parser:
    parser = _Parser(prog="aiwm simulate", description=_ABOUT, allow_abbrev=False)
    add = parser.add_argument
    add("--nodes", type=_whole(1, MOST_NODES), default=100, help="how many (default: 100)")
    add("--gpus", type=_whole(0, MOST_GPUS), default=8, help="of each node (default: 8)")
    add("--seconds", type=_number(0.1, 1e8), help="end by itself, so long after the last node was started")
    add("--keep", action="store_true", help="leave the nodes registered at the end; the next run takes them up again")
    add("--remove", action="store_true", help="only remove what earlier runs left")
    _add_sign_in(parser)
    _add_faults(parser)
    add("--data-dir", help="where the daemons' folders are kept while it runs (default: ~/.aiwm)")
    add("--tls-ca", help="file of authorities to trust besides the system's")
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    add("--log-level", choices=levels, default="ERROR", help="what the daemons say on standard error (default: ERROR)")
    return parser


def _add_sign_in(parser: _Parser) -> None:
    add = parser.add_argument_group("signing in elsewhere than `aiwm login` did").add_argument
    add("--url", help="the controller's address")
    add("--username", help="who signs in at --url (default: admin), with the password in AIWM_ADMIN_PASSWORD")
    add("--password-stdin", action="store_true", help="read the password from standard input instead")
    add("--key-file", type=Path, help="file with an API key to use at --url instead of a password")


def _add_faults(parser: _Parser) -> None:
    add = parser.add_argument_group("faults").add_argument
    percent = _number(0, 1000, "%")
    add("--flap", type=percent, default=0.0, metavar="PERCENT", help="so many of the links end each minute")
    add(
        "--cut",
        type=_number(0.1, 1e6),
        nargs=2,
        metavar=("SECONDS", "EVERY"),
        help="all links at once are down for SECONDS, once in EVERY seconds",
    )
    add("--skew", type=_number(-1e8, 1e8), default=0.0, metavar="SECONDS", help="a tenth of the clocks is so wrong")
    add("--slow", type=_number(0, 60_000), default=0.0, metavar="MS", help="every message takes so much longer")
    add("--crash", type=percent, default=0.0, metavar="PERCENT", help="so many of the engines crash each minute")
    add("--seed", type=_whole(0, 2**63 - 1), default=0, help="another number draws other faults (default: 0)")


def parse(arguments: Sequence[str]) -> Options:
    """Ends the process by 2 and one sentence when they cannot be used."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.url is None and (given.username or given.password_stdin or given.key_file):
        parser.error("--username, --password-stdin and --key-file go with --url")
    if given.key_file and (given.username or given.password_stdin):
        parser.error("give either --key-file or a password")
    if given.cut and given.cut[0] >= given.cut[1]:
        parser.error(f"--cut: a cut of {given.cut[0]:g} s does not fit into {given.cut[1]:g} s")
    if given.keep and given.remove:
        parser.error("give either --keep or --remove")
    username = None if given.url is None or given.key_file else given.username or "admin"
    faults = Faults(
        flap=given.flap,
        cut=tuple(given.cut) if given.cut else None,
        skew=given.skew,
        slow=given.slow / 1000,
        crash=given.crash,
    )
    return Options(
        username=username,
        faults=faults,
        **{name: getattr(given, name) for name in Options.__dataclass_fields__ if name not in ("username", "faults")},
    )
