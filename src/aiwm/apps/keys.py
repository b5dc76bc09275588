"""`aiwm keys rotate`: a new key signs tokens from now on, while the old ones verify until their time is over.

It works on the file that the services read, on the machine where that is; running services read it again by themselves.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from aiwm.infra.key_ring import Rotation, rotate
from aiwm.kit.clock import SystemClock, iso
from aiwm.kit.settings import SettingsError, load_settings

SECRET_FILE = "jwt-secret"  # noqa: S105 - a file's name
OVERLAP_SECONDS = 30 * 86_400


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(prog="aiwm keys", description="The keys that sign tokens.", allow_abbrev=False)
    verbs = made.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("rotate", help="sign with a new key, keep the old ones for a while", allow_abbrev=False)
    verb.add_argument("--config", type=Path, help="settings file (default: aiwm.toml in this folder)")
    verb.add_argument("--data-dir", help="the data folder of aiwm up, where AIWM_JWT_SECRET_FILE is not set")
    verb.add_argument(
        "--overlap",
        type=_seconds,
        default=OVERLAP_SECONDS,
        help="seconds for which old keys still verify; refresh tokens and most nodes' tokens live 30 days "
        "(default: %(default)s); 0 ends every sign-in and node token at once",
    )
    verb.add_argument("--prune", action="store_true", help="make no new key, only remove old ones whose time is over")
    return made


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code."""
    given = parser().parse_args(arguments)
    try:
        path = _ring(given)
        done = rotate(path, SystemClock().now(), overlap=timedelta(seconds=given.overlap), add=not given.prune)
    except SettingsError as error:
        print(f"aiwm keys: {error}", file=sys.stderr)
        return 2
    print(_told(path, done))
    return 0


def _ring(given: argparse.Namespace) -> Path:
    settings = load_settings({"data_dir": given.data_dir}, config=given.config)
    if settings.jwt_secret_file and given.data_dir is None:
        return Path(settings.jwt_secret_file)
    if settings.jwt_secret and not settings.jwt_secret_file and given.data_dir is None:
        raise SettingsError(
            "cannot rotate AIWM_JWT_SECRET, which is a setting and no file: put a new key before the others there "
            "and restart the services, or keep the keys in a file that AIWM_JWT_SECRET_FILE names"
        )
    path = settings.data_dir / SECRET_FILE
    if not path.exists():
        raise SettingsError(f"cannot find a key ring at {path}: set AIWM_JWT_SECRET_FILE, or --data-dir of aiwm up")
    return path


def _told(path: Path, done: Rotation) -> str:
    lines = [f"{path}: key {done.signing} signs"]
    lines += [f"key {name} verifies until {iso(until)}" for name, until in done.kept.items()]
    lines += [f"key {name} was removed: what it signed is refused from now on" for name in done.removed]
    return "\n".join(lines)


def _seconds(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 3650 * 86_400:
        raise argparse.ArgumentTypeError("must be from 0 to ten years")
    return number
