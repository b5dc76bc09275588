"""Who runs in a replica's folder: by what its keeper wrote, and without that by what the kernel says.

A pid alone may belong to somebody else by now. Together with the kernel's start time and this boot's id it does not,
whatever happened to the clock in between. When nothing can be read, the keeper is known by the lock it holds and the
folder on its command line, and what an engine started by the folder in its environment.
"""

import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiwm.daemon import keeper

SPEC = "spec.json"
MARK = "ENGINE_FOLDER"
_NUMBERS = ("keeperPid", "keeperStartTime", "pid", "startTime", "exitCode", "signal")


def state_of(folder: Path) -> dict[str, Any] | None:
    """What the keeper wrote, or what can be found out without that; None when nothing is known of any engine."""
    state = written_state(folder)
    if state is None and held(folder):
        state = _found(folder)
    return state


def written_state(folder: Path) -> dict[str, Any] | None:
    """What the keeper wrote; None when it cannot be read or is not what keepers write."""
    try:
        state = json.loads((folder / keeper.STATE).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(state, dict) or "requested" not in state:
        return None
    fits = isinstance(state.get("bootId"), str) and isinstance(state.get("ended"), bool)
    return state if fits and all(isinstance(state.get(name, ""), int | type(None)) for name in _NUMBERS) else None


def held(folder: Path) -> bool:
    """Whether a keeper lives in this folder: the kernel drops its lock with it, however it ends."""
    try:
        lock = os.open(folder / keeper.LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _found(folder: Path) -> dict[str, Any] | None:
    for pid in _pids():
        if _is_keeper(pid, folder):
            engine = next((child for child in _children(pid)), None)
            return {
                "bootId": keeper.boot_id(),
                "keeperPid": pid,
                "keeperStartTime": keeper.start_time(pid),
                "pid": engine,
                "startTime": None if engine is None else keeper.start_time(engine),
                "ended": False,
                "exitCode": None,
                "signal": None,
                "requested": None,
            }
    return None


def lives(state: Mapping[str, Any], pid: str, started: str) -> bool:
    """Whether the very process that `state` speaks of still runs."""
    if state[pid] is None or state["bootId"] != keeper.boot_id():
        return False
    return state[started] is not None and keeper.start_time(state[pid]) == state[started]


def end_leftovers(folder: Path) -> bool:
    """Kills what still runs of a folder whose keeper is gone or cannot be told to end; whether there was anything."""
    family = [pid for pid in _pids() if _is_keeper(pid, folder) or _is_marked(pid, folder)]
    for pid in family:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(family)


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())


def _is_keeper(pid: int, folder: Path) -> bool:
    words = _words(pid, "cmdline")
    # Of whatever release: the daemon may have been replaced since.
    return os.fsencode(folder / SPEC) in words and any(word.endswith(b"keeper.py") for word in words)


def _is_marked(pid: int, folder: Path) -> bool:
    return os.fsencode(f"{MARK}={folder}") in _words(pid, "environ") and keeper.start_time(pid) is not None


def _words(pid: int, what: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes().split(b"\0")
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
