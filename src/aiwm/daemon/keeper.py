"""The keeper of one engine: a tiny parent that outlives the daemon, so that an engine does not die with it.

Runs by itself as `python -I keeper.py SPEC [--lifeline FD]` and therefore imports the standard library only. It starts
the engine in a process group of its own, copies its output into a log that cannot fill the disk, and leaves on disk
who the engine is while it runs and how it ended afterwards. SIGTERM ends the engine gently, a second one by force.
With a lifeline (the read end of a pipe) the engine also ends when every writer of that pipe is gone. One that has used
more memory than it may is ended by force.

Its lock is what makes two engines in one folder impossible: whoever holds it is the one keeper, also when no other file
can be read. A full disk costs log lines; what must be written about the engine is written again until it is.
"""

import contextlib
import ctypes
import fcntl
import glob
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATE = "state.json"
LOG = "engine.log"
LOCK = "keeper.lock"
SPARE = "state.spare"
LIFELINE_GRACE_SECONDS = 4.0
LOCKED = 3
ENGINE_OOM_SCORE = 500
_LOCK_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 2.0
_SPARE_BYTES = 4096
_CHUNK = 65_536
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def start_time(pid: int) -> int | None:
    """When the kernel started `pid`, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """Which boot of the machine this is: start times only compare within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_atomically(path: Path, content: dict[str, Any]) -> None:
    """Replaces `path` with `content` as JSON; a reader sees the old or the new, also after a power loss."""
    draft = path.with_name(f"{path.name}.new")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def limit(which: int, most: int) -> None:
    """Lowers one of this process's limits to `most`, or leaves it as it is where it is lower already."""
    hard = resource.getrlimit(which)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


def clear_scratch(patterns: list[str]) -> None:
    """Removes what an engine that was killed left outside its folder."""
    for pattern in patterns:
        for leftover in glob.glob(pattern):
            with contextlib.suppress(OSError):
                os.unlink(leftover)


def descendants(pid: int) -> list[int]:
    """What `pid` started and what those started, whichever of their threads did it."""
    found: list[int] = []
    # Threads come and go meanwhile, and glob would take four times as long.
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                for child in file.read().split():
                    found += [int(child), *descendants(int(child))]
    return found


def memory(pids: list[int]) -> int:
    """Bytes that are theirs, besides files and shared memory; what a fork shares with its parent counts twice."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
            pages += int(resident) - int(shared)
    return pages * resource.getpagesize()


def memory_once(pids: list[int]) -> int:
    """The same with each byte counted once, which takes the kernel a while to find out."""
    found = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            sizes = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
            found += int(sizes.get("Pss_Anon", "0").split()[0]) * 1024
    return found


class Log:
    """The engine's output on disk: the newest file and a bounded number of older ones.

    No failure of the disk reaches the engine: what cannot be written is dropped.
    """

    def __init__(self, path: Path, limit: int, files: int, base: int) -> None:
        self._path, self._limit, self._files = path, limit, files
        self.base = base
        self._file: Any = None
        self.size = 0
        self._open("ab")

    def write(self, chunk: bytes) -> bool:
        """Appends; True when the files were rotated, which moves `base`."""
        rotated = self.size > 0 and self.size + len(chunk) > self._limit and self._rotate()
        if self._file is None:
            self._open("ab")
        if self._file is not None:
            with contextlib.suppress(OSError):
                self.size += self._file.write(chunk) or 0
        return rotated

    def _open(self, mode: str) -> None:
        try:
            self._file = self._path.open(mode, buffering=0)
            self.size = self._file.tell()
        except OSError:
            self._file = None

    def _rotate(self) -> bool:
        try:
            for number in range(self._files - 1, 0, -1):
                older = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
                if older.exists():
                    older.replace(self._path.with_name(f"{self._path.name}.{number}"))
        except OSError:
            return False
        if self._file is not None:
            self._file.close()
        self.base += self.size
        self.size = 0
        self._open("wb")
        return True


class Keeper:
    """One engine from its start to its recorded end."""

    def __init__(self, spec: dict[str, Any], lifeline: int | None) -> None:
        self._spec = spec
        self._folder = Path(spec["folder"])
        self._lifeline = lifeline
        self._state: dict[str, Any] = {
            "bootId": boot_id(),
            "keeperPid": os.getpid(),
            "keeperStartTime": start_time(os.getpid()),
            "pid": None,
            "startTime": None,
            "ended": False,
            "exitCode": None,
            "signal": None,
            "requested": None,
            "logBase": self._earlier_log_base(),
        }
        self._deadline: float | None = None
        self._save_again_at: float | None = None
        self._look_at = None if spec.get("memory") is None else time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._log = Log(self._folder / LOG, spec["logBytes"], spec["logFiles"], self._state["logBase"])
        self._state["logStart"] = self._log.base + self._log.size

    def run(self) -> None:
        """Starts the engine and stays until it ended."""
        wakeup = self._catch_signals()
        engine = self._start()
        if engine is not None:
            self._watch(engine, wakeup)

    def _earlier_log_base(self) -> int:
        try:
            return int(json.loads((self._folder / STATE).read_bytes())["logBase"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _catch_signals(self) -> int:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for each in (*_ENDINGS, signal.SIGCHLD):
            signal.signal(each, lambda *_: None)
        return reader

    def _start(self) -> "subprocess.Popen[bytes] | None":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        keeper = os.getpid()
        limits = [(getattr(resource, name), most) for name, most in self._spec.get("rlimits", {}).items()]

        def become_engine() -> None:
            # Output without its keeper has nowhere to go, and the next write would end the engine anyway.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != keeper:
                os.kill(os.getpid(), signal.SIGKILL)
            # Short of memory, the machine is to give up an engine before those who would start it again.
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
                score.write(str(ENGINE_OOM_SCORE))
            for which, most in limits:
                limit(which, most)

        try:
            engine = subprocess.Popen(
                self._spec["argv"],
                env=self._spec["env"],
                cwd=self._spec["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=become_engine,
            )
        except OSError as error:
            self._save(ended=True, exitCode=127, error=f"{self._spec['argv'][0]}: {error.strerror}")
            return None
        self._save(pid=engine.pid, startTime=start_time(engine.pid))
        return engine

    def _watch(self, engine: "subprocess.Popen[bytes]", wakeup: int) -> None:
        assert engine.stdout is not None  # noqa: S101 - Popen was asked for a pipe
        output = engine.stdout.fileno()
        os.set_blocking(output, False)
        self._selector.register(output, selectors.EVENT_READ)
        self._selector.register(wakeup, selectors.EVENT_READ)
        if self._lifeline is not None:
            self._selector.register(self._lifeline, selectors.EVENT_READ)
        ended = None
        while ended is None:
            ready = {key.fd for key, _ in self._selector.select(self._patience())}
            if output in ready:
                self._copy(output)
            if wakeup in ready:
                self._signalled(engine.pid, os.read(wakeup, 64))
            if self._lifeline is not None and self._lifeline in ready and not os.read(self._lifeline, 64):
                self._cut(engine.pid)
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._kill(engine.pid)
            if self._save_again_at is not None and time.monotonic() >= self._save_again_at:
                self._save()
            if self._look_at is not None and time.monotonic() >= self._look_at:
                self._look_at = self._look(engine.pid)
            ended = os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        self._finish(engine.pid, output)

    def _patience(self) -> float | None:
        due = [each for each in (self._deadline, self._save_again_at, self._look_at) if each is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _look(self, pid: int) -> float | None:
        """Ends an engine that has used too much memory; when to look again."""
        family, most = descendants(os.getpid()), self._spec["memory"]
        if memory(family) <= most or (used := memory_once(family)) <= most:
            return time.monotonic() + _LOOK_SECONDS
        self._save(memoryUsed=used)
        self._kill(pid)
        return None

    def _copy(self, output: int, most: int = 16) -> None:
        for _ in range(most):
            try:
                chunk = os.read(output, _CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                self._selector.unregister(output)
                return
            if self._log.write(chunk):
                self._save(logBase=self._log.base)

    def _signalled(self, pid: int, numbers: bytes) -> None:
        for number in numbers:
            if number not in _ENDINGS:
                continue
            if self._state["requested"] is None:
                self._end(pid, "stop")
            else:
                self._kill(pid)

    def _cut(self, pid: int) -> None:
        assert self._lifeline is not None  # noqa: S101 - only called with one
        self._selector.unregister(self._lifeline)
        self._lifeline = None
        self._deadline = time.monotonic() + LIFELINE_GRACE_SECONDS
        self._end(pid, "lifeline")

    def _end(self, pid: int, why: str) -> None:
        self._save(requested=why)
        # Only the leader: it ends its own helpers in order.
        os.kill(pid, signal.SIGTERM)

    def _kill(self, pid: int) -> None:
        self._deadline = None
        os.killpg(pid, signal.SIGKILL)

    def _finish(self, pid: int, output: int) -> None:
        # The leader is not reaped yet, so its group's number cannot belong to anybody else.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._end_orphans()
        if output in self._selector.get_map():
            self._copy(output, most=1024)
        clear_scratch(self._spec["scratch"])
        code, number = (status, None) if status >= 0 else (None, -status)
        self._save(ended=True, exitCode=code, signal=number)

    def _end_orphans(self) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while pids := [int(pid) for pid in children.read_text().split()]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _save(self, **changes: Any) -> None:
        """The replica's folder may be on a full disk, or gone: the engine is still kept, and it is tried again."""
        self._state.update(changes)
        saved = self._written()
        if not saved:
            with contextlib.suppress(OSError):
                (self._folder / SPARE).unlink()
            saved = self._written()
        elif not self._state["ended"]:
            self._put_by()
        self._save_again_at = None if saved else time.monotonic() + _RETRY_SECONDS

    def _written(self) -> bool:
        try:
            write_atomically(self._folder / STATE, self._state)
        except OSError:
            return False
        return True

    def _put_by(self) -> None:
        """Sets room aside, so that how the engine ended can be written on a disk that it filled itself."""
        spare = self._folder / SPARE
        try:
            if not spare.exists():
                spare.write_bytes(b"0" * _SPARE_BYTES)
        except OSError:
            with contextlib.suppress(OSError):
                spare.unlink()


def main(arguments: list[str]) -> int:
    """`SPEC` is a JSON file: argv, env, cwd, folder, scratch[] (glob patterns), logBytes, logFiles, and from a daemon
    that knows them rlimits{} (by their names in `resource`) and memory (bytes, or null)."""
    spec = json.loads(Path(arguments[0]).read_text())
    lifeline = int(arguments[2]) if arguments[1:2] == ["--lifeline"] else None
    lock = os.open(Path(spec["folder"]) / LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _locked(lock):
        return LOCKED
    Keeper(spec, lifeline).run()
    return 0


def _locked(lock: int) -> bool:
    """Whether the lock could be had; a daemon that looks who has it holds it for an instant."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
