"""What can be wrong with a machine that is to be a node, looked at one by one; nothing here needs the daemon."""

import os
import pwd
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from aiwm.daemon.gpu import Gpus, Reading
from aiwm.daemon.patience import Patience
from aiwm.daemon.service import UNIT
from aiwm.daemon.telemetry import LOW_DISK_MIB
from aiwm.daemon.unit import SERVICE, USER

Verdict = Literal["ok", "warn", "fail"]

_MIB = 2**20
_SMALL_DISK_MIB = 10_240
_SMALL_MEMORY_MIB = 2_048
_FEW_PROCESSES = 4_096
_FEW_FILES = 4_096
_DRIVER_SECONDS = 10.0
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Check:
    """One line: how it is with `what`, and what to do about it where it is not well."""

    verdict: Verdict
    what: str
    value: str
    advice: str = ""

    def line(self) -> str:
        return f"{self.verdict:<5} {self.what}: {self.value}" + (f"; {self.advice}" if self.advice else "")

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= (3, 14):
        return Check("warn", "python", version, "AIWM is tested with 3.11 to 3.13")
    return Check("ok", "python", f"{version}, {sys.executable}")


def data_folder(folder: Path, *, installed: bool) -> Check:
    """It is writable to who runs the daemon, and its disk has room."""
    what = "data folder"
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if there != folder and installed:
        return Check("fail", what, f"{folder} is not there", "make it with: aiwm node install")
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Check("fail", what, f"{folder} cannot be written", "give it to this user, or set AIWM_DATA_DIR")
    owner = _name(there.stat().st_uid)
    if installed and owner != USER:
        advice = f"give it to the service: chown -R {USER}:{USER} {folder}"
        return Check("fail", what, f"{folder} belongs to {owner}", advice)
    free = shutil.disk_usage(there).free // _MIB
    value = f"{folder}, of {owner}, {free} MiB free"
    if free < LOW_DISK_MIB:
        return Check("fail", what, value, "free some space: models and logs cannot be written")
    return Check("warn", what, value, "models need more") if free < _SMALL_DISK_MIB else Check("ok", what, value)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def look_at_gpus() -> tuple[Reading, float]:
    """What the driver says, and for how long it has not answered."""
    return Patience(Gpus(None).read, Reading(), seconds=_DRIVER_SECONDS).ask()


def gpus(reading: Reading, silent: float = 0.0) -> Check:
    """The driver and every GPU, as the daemon will see them."""
    what = "gpus"
    if silent:
        return Check("fail", what, "NVIDIA's driver does not answer", "see `dmesg`, then restart the machine")
    if reading.broken is not None:
        cause, _, advice = reading.broken.partition("; ")
        return Check("fail", what, cause, advice)
    if not reading.devices:
        return Check("ok", what, "none: no NVIDIA driver is installed, or it knows no GPU")
    models = ", ".join(f"{gpu.device_id} {gpu.model or 'of unknown model'}" for gpu in reading.devices)
    value = f"{models}; driver {reading.devices[0].driver_version or 'of unknown version'}"
    for verdict, health in (("fail", "error"), ("warn", "warning")):
        if bad := ", ".join(gpu.device_id for gpu in reading.devices if gpu.health == health):
            return Check("fail" if verdict == "fail" else "warn", what, value, f"look after {bad}: see `dmesg`")
    return Check("ok", what, value)


def service(unit: Path = UNIT) -> Check:
    """The service, where the daemon is installed as one."""
    if not unit.exists():
        return Check("ok", "service", "not installed; `aiwm node install` does that")
    try:
        state = subprocess.run(
            ["systemctl", "is-active", SERVICE], capture_output=True, text=True, check=False, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        state = "unknown"
    if state == "active":
        return Check("ok", "service", f"{SERVICE} is active")
    return Check("fail", "service", f"{SERVICE} is {state or 'unknown'}", f"see: journalctl -u {SERVICE} -e")


def open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    value = f"{'no limit' if soft == resource.RLIM_INFINITY else soft} in this shell"
    if soft != resource.RLIM_INFINITY and soft < _FEW_FILES:
        return Check("warn", "open files", value, f"raise it with `ulimit -n {hard}`; the service has its own limit")
    return Check("ok", "open files", value)


def cgroup(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> Check:
    """Limits on the service, or on this shell where there is no service."""
    group = root / "system.slice" / f"{SERVICE}.service"
    if not group.is_dir():
        try:
            group = root / own.read_text().rpartition("::/")[2].strip()
        except OSError:
            return Check("ok", "limits", "no control groups here")
    memory, processes = _limit(group, root, "memory.max"), _limit(group, root, "pids.max")
    value = f"memory {'unlimited' if memory is None else f'{memory // _MIB} MiB'}, "
    value += f"processes {'unlimited' if processes is None else processes}"
    if memory is not None and memory // _MIB < _SMALL_MEMORY_MIB:
        return Check("warn", "limits", value, "engines share this memory: raise MemoryMax of the service or container")
    if processes is not None and processes < _FEW_PROCESSES:
        return Check("warn", "limits", value, "engines have many threads: raise TasksMax of the service or container")
    return Check("ok", "limits", value)


def _limit(group: Path, root: Path, name: str) -> int | None:
    """The lowest of a group's and its parents' limits; None for none."""
    limits = []
    for each in (group, *group.parents):
        if each == root.parent:
            break
        try:
            limits.append(int((each / name).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits, default=None)
