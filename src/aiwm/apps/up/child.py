"""Child processes that never outlive their parent: spawned with a death signal, in groups that can be ended whole."""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on this process is the parent of every orphan below it: what a child leaves behind can be found."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


async def spawn(
    arguments: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path, inherit: Sequence[int]
) -> asyncio.subprocess.Process:
    """Starts a child in a session of its own, its output appended to `log`; SIGTERM reaches it when we die.

    Must be called in the main thread: the death signal fires when the thread that spawned ends.
    """
    parent = os.getpid()

    def between_fork_and_exec() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *arguments,
            env=dict(environment),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(inherit),
            preexec_fn=between_fork_and_exec,
        )
    finally:
        os.close(output)


def kill_group(process: asyncio.subprocess.Process) -> None:
    """SIGKILL to the child and everything in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def children() -> set[int]:
    """The pids of our direct children, zombies included."""
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, listing.read_text().split()))
    return found


def reap(pids: set[int]) -> None:
    """Buries those of `pids`, adopted orphans, that have ended."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def tell(pids: set[int], number: signal.Signals) -> None:
    """Sends a signal to each of `pids`, and to its whole group where it leads one."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
