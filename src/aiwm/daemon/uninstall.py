"""`aiwm node uninstall`: takes the service away. Engines belong to their deployments, not to it: they go on."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from aiwm.daemon import keeper
from aiwm.daemon.envfile import read_environment
from aiwm.daemon.launchers.docker_table import NOTE
from aiwm.daemon.service import DATA_DIR, ENVIRONMENT, UNIT, Machine, Refused, read_text
from aiwm.daemon.unit import SERVICE


def uninstall(machine: Machine, *, purge: bool) -> list[str]:
    """Ends and removes the service; what was done, in lines. Raises `Refused`."""
    if machine.run and os.geteuid() != 0:
        raise Refused("this needs root: run it with sudo")
    values = read_environment(read_text(machine.at(ENVIRONMENT)))
    own = machine.at(Path(values.get("AIWM_DATA_DIR", str(DATA_DIR))) / "node")
    engines = running_engines(own)
    if engines and purge:
        raise Refused(
            f"{_counted(engines)}: stop their deployments first, so that nothing runs without its files; "
            "or uninstall without --purge, which leaves them running"
        )
    said = _remove_service(machine)
    if purge:
        shutil.rmtree(own, ignore_errors=True)
        said.append(f"removed {own}")
        if own.parent.is_dir() and not any(own.parent.iterdir()):
            own.parent.rmdir()
    elif own.exists():
        said.append(f"left {own}: what this node runs and keeps; `aiwm node uninstall --purge` removes it")
    if engines:
        said.append(f"{_counted(engines)}, now as before; a daemon with this data folder takes them up again")
    return said or ["nothing to remove: the service is not installed"]


def _remove_service(machine: Machine) -> list[str]:
    unit, environment = machine.at(UNIT), machine.at(ENVIRONMENT)
    if machine.run and unit.exists():
        machine.must("systemctl", "disable", "--now", SERVICE)
    there = [path for path in (unit, environment) if path.exists()]
    for path in there:
        path.unlink()
    if environment.parent.is_dir() and not any(environment.parent.iterdir()):
        environment.parent.rmdir()
    if machine.run and unit in there:
        machine.must("systemctl", "daemon-reload")
    return [f"removed {path}" for path in there]


def _counted(engines: Sequence[str]) -> str:
    some = ", ".join(engines[:3]) + (", …" if len(engines) > 3 else "")
    return f"{len(engines)} engines run here ({some})" if len(engines) > 1 else f"1 engine runs here ({some})"


def running_engines(own: Path) -> list[str]:
    """Ids of replicas whose engine runs; `own` is the daemon's folder."""
    replicas = own / "replicas"
    processes = {path.parent.name for path in replicas.glob(f"*/{keeper.STATE}") if _lives(path)}
    containers = {path.parent.name for path in replicas.glob(f"*/{NOTE}") if _ran(path)}
    return sorted(processes | containers)


def _lives(path: Path) -> bool:
    try:
        state = json.loads(path.read_text())
        same_boot = state["bootId"] == keeper.boot_id()
        lives = not state["ended"] and keeper.start_time(int(state["pid"])) == state["startTime"]
        return bool(same_boot and lives and state["startTime"] is not None)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _ran(path: Path) -> bool:
    """Whether a container ran when that was last known: only Docker could say that it ended since."""
    try:
        note = json.loads(path.read_text())
        return "pid" in note and bool(note["bootId"] == keeper.boot_id())
    except (OSError, ValueError, KeyError, TypeError):
        return False
