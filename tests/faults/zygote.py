"""Processes to kill by the hundred: forked from one that has imported everything, so each starts in milliseconds."""

import asyncio
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Zygote:
    """Starts `module.function(*args)`, a coroutine function of strings, in a new process each time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.killed = 0

    def spawn(self, function: str, *args: str) -> int:
        """The new process's id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, *args]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def kill(self, pid: int) -> None:
        """`kill -9`; the process is gone when this returns."""
        os.kill(pid, signal.SIGKILL)
        self.killed += 1
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.001)


@contextmanager
def zygote(module: str) -> Iterator[Zygote]:
    """A zygote for the coroutine functions of `module`; those still running at the end are killed."""
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, __file__, module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        yield Zygote(process)
    finally:
        process.communicate(timeout=20)


def lines(path: Path) -> list[str]:
    """The complete lines of a file that killed processes appended to."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def lifetime(rng: random.Random, most: float) -> float:
    """A random moment to die at, in seconds from now."""
    return rng.uniform(0.005, most)


def _serve(module: str) -> None:
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[2] / "src")]
    functions = importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    children = []
    for line in sys.stdin:
        function, *args = json.loads(line)
        if (pid := os.fork()) == 0:
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            asyncio.run(getattr(functions, function)(*args))
            os._exit(0)
        children.append(pid)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve(sys.argv[1])
