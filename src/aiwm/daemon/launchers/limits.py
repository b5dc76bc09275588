"""What an engine that runs as a process may use: by a scope of systemd where one may be had, else by rlimits."""

import os
import re
import shutil
import signal
from pathlib import Path

from aiwm.daemon.launchers.port import Room

TASKS = 4096
"""Processes and threads of one engine in its scope."""

USER_TASKS = 32_768
"""The same without a scope, where the kernel counts all of a user's together: half of what the service may have."""

OPEN_FILES = 65_536
_MIB = 2**20
_BOOTED = Path("/run/systemd/system")
_REFUSED = re.compile(r"\bMemoryError|bad_alloc|can(?:not|'t) allocate memory", re.IGNORECASE)


def systemd_run() -> str | None:
    """The program that makes scopes, where systemd runs and lets this user have them; None elsewhere."""
    return shutil.which("systemd-run") if os.geteuid() == 0 and _BOOTED.is_dir() else None


def scoped(program: str, argv: tuple[str, ...], room: Room) -> tuple[str, ...]:
    """`argv` in a scope of its own: `program` turns into it, so it keeps its pid, its parent and its group."""
    limits = [f"TasksMax={TASKS}"]
    if room.ram:
        limits.append(f"MemoryMax={room.ram}M")
    if room.cpu_cores:
        limits.append(f"CPUQuota={max(1, round(room.cpu_cores * 100))}%")
    properties = [word for limit in limits for word in ("-p", limit)]
    return (program, "--scope", "--quiet", "--collect", *properties, "--", *argv)


def rlimits(room: Room, *, scope: bool, root: bool) -> dict[str, int]:
    """By the names of the `resource` module; a scope bounds memory and processes better than these can."""
    limits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": OPEN_FILES}
    if not scope and room.ram:
        limits["RLIMIT_DATA"] = room.ram * _MIB
    if not scope and not root:
        limits["RLIMIT_NPROC"] = USER_TASKS
    return limits


def short_of_memory(ram: int, *, scope: bool, number: int | None, output: str) -> str | None:
    """What to add to how an engine with a limit of `ram` MiB ended, if that limit seems to be why."""
    limit = f"its limit of {ram} MiB, which resources.ram raises"
    if scope:
        return f"probably for using more than {limit}" if number == signal.SIGKILL else None
    return f"after it was refused memory beyond {limit}" if _REFUSED.search(output) else None
