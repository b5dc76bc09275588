"""What an engine that runs as a process may use: by a scope of systemd where one may be had, else by its keeper."""

import os
import shutil
from pathlib import Path

from aiwm.daemon.launchers.port import Room

TASKS = 4096
"""Processes and threads of one engine in its scope."""

USER_TASKS = 32_768
"""The same without a scope, where the kernel counts all of a user's together: half of what the service may have."""

OPEN_FILES = 65_536
_MIB = 2**20
_BOOTED = Path("/run/systemd/system")


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


def rlimits(*, scope: bool, root: bool) -> dict[str, int]:
    """By the names of the `resource` module; a scope bounds processes better than these can.

    RLIMIT_DATA is not among them: it counts what is reserved, like 8 MiB of stack for each of an engine's threads.
    """
    limits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": OPEN_FILES}
    return limits if scope or root else limits | {"RLIMIT_NPROC": USER_TASKS}


def memory_limit(room: Room, *, scope: bool) -> int | None:
    """The bytes that the keeper is to hold an engine to."""
    return room.ram * _MIB if room.ram and not scope else None
