"""`aiwm node install`: the daemon as a service of systemd, with what it needs and nothing more.

What is there already and right is left alone, so that it can run in every provisioning.
"""

import argparse
import os
import pwd
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from aiwm.daemon.envfile import read_environment, write_environment
from aiwm.daemon.service import DATA_DIR, ENVIRONMENT, UNIT, Machine, Refused, read_text
from aiwm.daemon.unit import PLAIN_PATH, SERVICE, USER, Service, unit_text, uses_docker
from aiwm.kit.settings import OF_ENGINES

TOKENS = ("AIWM_NODE_TOKEN", "AIWM_JOIN_TOKEN")
_HIDDEN = ("/home/", "/run/user/", f"{pwd.getpwuid(0).pw_dir}/")
_SETTINGS = ("controller_url", "data_dir", "tls_ca", "advertise_host", "node_name", "log_level", *OF_ENGINES)
_URLS = ("http://", "https://", "ws://", "wss://")


def install(given: argparse.Namespace, environment: Mapping[str, str], machine: Machine) -> list[str]:
    """Installs or brings up to date; what was done, in lines. Raises `Refused`."""
    values = _values(given, environment, read_text(machine.at(ENVIRONMENT)))
    _require(values)
    service = _service(given, values, read_text(machine.at(UNIT)))
    unit, data_dir = unit_text(service), Path(service.data_dir)
    if machine.run:
        _check_machine(machine, service, values)
        ensure_user(machine, data_dir)
        _check_owner(machine.at(data_dir))
    said = [
        _put(machine.at(ENVIRONMENT), write_environment(values), 0o600),
        _put(machine.at(UNIT), unit, 0o644),
    ]
    changed = [line for line in said if line is not None]
    if machine.run:
        changed += _own(machine.at(data_dir))
        return _start(machine, changed)
    note = f"the image also needs: useradd --system --home-dir {data_dir} --shell /usr/sbin/nologin {USER}; "
    note += f"install -d -o {USER} -g {USER} -m 700 {data_dir}; systemctl enable {SERVICE}"
    return [*(changed or ["nothing to change"]), note]


def printed(given: argparse.Namespace, environment: Mapping[str, str]) -> str:
    """The unit as it would be installed; anybody may look, so it goes by the flags alone."""
    return unit_text(_service(given, _values(given, environment, ""), "")).rstrip("\n")


def _values(given: argparse.Namespace, environment: Mapping[str, str], installed: str) -> dict[str, str]:
    """Flags over this shell's environment over what is installed."""
    values = read_environment(installed)
    for name in _SETTINGS:
        variable = f"AIWM_{name.upper()}"
        if value := getattr(given, name, None) or environment.get(variable):
            values[variable] = str(value)
    for variable, flag in zip(TOKENS, (given.token_file, given.join_token_file), strict=True):
        if token := _token(variable, flag, environment):
            # A node comes in by one of them; the other would be tried again after it was used up or revoked.
            for other in TOKENS:
                values.pop(other, None)
            values[variable] = token
    values.setdefault("AIWM_DATA_DIR", str(DATA_DIR))
    return values


def _require(values: Mapping[str, str]) -> None:
    if not values.get("AIWM_CONTROLLER_URL", "").startswith(_URLS):
        raise Refused("give the controller's address with --controller-url, like https://aiwm.example.org:3003")
    if not any(values.get(variable) for variable in TOKENS):
        raise Refused(
            "give a token in a file: --join-token-file with one of `aiwm nodes join-token`, or --token-file with the "
            "node's own; or set AIWM_JOIN_TOKEN or AIWM_NODE_TOKEN"
        )
    for variable, value in values.items():
        if not value.isprintable():
            raise Refused(f"{variable} has a line's end or a control character in it; give it as one plain line")


def _token(variable: str, flag: str | None, environment: Mapping[str, str]) -> str | None:
    path = flag or environment.get(f"{variable}_FILE")
    if not path:
        return environment.get(variable)
    try:
        token = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"cannot read the token in {path}: {error}") from error
    if not token:
        raise Refused(f"the token file {path} is empty; write the token into it")
    return token


def _service(given: argparse.Namespace, values: Mapping[str, str], installed: str) -> Service:
    data_dir = Path(values["AIWM_DATA_DIR"])
    python = Path(sys.executable)
    docker = uses_docker(installed) if given.docker is None else given.docker
    for what, path in (("data folder", data_dir), ("Python", python)):
        if not PLAIN_PATH.fullmatch(str(path)):
            raise Refused(f"the {what} {path} must be an absolute path of letters, digits and ._+- alone")
    if data_dir in (Path("/"), *Path("/var/lib/x").parents, Path("/etc"), Path("/usr"), Path("/tmp")):  # noqa: S108
        raise Refused(f"the data folder must be a folder of its own, not {data_dir}; for example {DATA_DIR}")
    return Service(python, ENVIRONMENT, data_dir, docker=docker)


def _check_machine(machine: Machine, service: Service, values: Mapping[str, str]) -> None:
    if os.geteuid() != 0:
        raise Refused("this needs root: run it with sudo, or see what it would write with --print")
    if not machine.at(Path("/run/systemd/system")).is_dir():
        raise Refused(
            "this machine is not run by systemd; start `aiwm node` with what runs it, or use --root for an image"
        )
    needed = {"AIWM itself": Path(service.python), "its data folder": Path(service.data_dir)}
    files = ("AIWM_TLS_CA", "AIWM_TRITON_SERVER", "AIWM_VLLM_SERVER")
    needed |= {name: Path(values[name]) for name in files if values.get(name)}
    for what, path in needed.items():
        for each in {path, path.resolve()}:
            if str(each).startswith(_HIDDEN) or not _open_to_all(each.parent):
                raise Refused(
                    f"{what} lies in {each.parent}, where the service's user {USER} may not look; "
                    "put it below /opt, /usr or /var, or open that folder to all"
                )


def _open_to_all(folder: Path) -> bool:
    there = [each for each in (folder, *folder.parents) if each.exists()]
    return all(each.stat().st_mode & 0o001 for each in there)


def ensure_user(machine: Machine, data_dir: Path) -> None:
    """Makes the service's user where it is missing."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        machine.must(
            "useradd", "--system", "--user-group", "--no-create-home",
            "--home-dir", str(data_dir), "--shell", "/usr/sbin/nologin", USER,
        )  # fmt: skip


def owner_of(path: Path) -> int:
    """The user that `path` belongs to."""
    return path.stat().st_uid


def _check_owner(data_dir: Path) -> None:
    if data_dir.is_dir() and owner_of(data_dir) != pwd.getpwnam(USER).pw_uid and any(data_dir.iterdir()):
        raise Refused(
            f"the data folder {data_dir} is in use and not {USER}'s; if it is this node's alone, give it: "
            f"chown -R {USER}:{USER} {data_dir}"
        )


def _own(data_dir: Path) -> list[str]:
    """The data folder is the service's alone."""
    user = pwd.getpwnam(USER)
    if data_dir.is_dir() and owner_of(data_dir) == user.pw_uid:
        return []
    data_dir.mkdir(parents=True, exist_ok=True)
    shutil.chown(data_dir, user.pw_uid, user.pw_gid)
    data_dir.chmod(0o700)
    return [f"{data_dir} belongs to {USER}"]


def _start(machine: Machine, changed: list[str]) -> list[str]:
    if changed:
        machine.must("systemctl", "daemon-reload")
    wanted = [machine.ask("systemctl", word, "--quiet", SERVICE) for word in ("is-enabled", "is-active")]
    if not all(wanted):
        machine.must("systemctl", "enable", "--now", SERVICE)
        return [*changed, f"{SERVICE} is started, now and at each start of the machine; see: journalctl -u {SERVICE}"]
    if changed:
        return [*changed, f"to use it: systemctl restart {SERVICE} (engines go on)"]
    return ["nothing to change: the service is installed and runs"]


def _put(path: Path, text: str, mode: int) -> str | None:
    """Writes `path` whole, never readable to others on the way; None when it is so already."""
    if path.exists() and path.read_text() == text and path.stat().st_mode & 0o777 == mode:
        return None
    verb = "changed" if path.exists() else "wrote"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    draft.replace(path)
    return f"{verb} {path}"
