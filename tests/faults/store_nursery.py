"""Starts store writers quickly, kills them, and collects what they said."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiwm.infra.store.port import Store

_SCRIPT = Path(__file__).with_name("store_writer.py")


class Nursery:
    """One process that forks a writer for each round."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the writer's parent ended"
        return line.strip()

    def begin(self, url: str, name: str, mode: str = "forever") -> int:
        """Starts one writer; its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{url} {name} {mode}\n")
        self._process.stdin.flush()
        # The child may speak before its parent does.
        self._early: list[str] = []
        while not (line := self._line()).startswith("pid "):
            self._early.append(line)
        return int(line.split()[1])

    def said(self) -> tuple[list[str], int]:
        """All the writer said, and its exit status, once it has ended."""
        lines = self._early
        while not (line := self._line()).startswith("ended "):
            lines.append(line)
        return lines, int(line.split()[1])

    def round(self, url: str, name: str, seconds: float) -> list[str]:
        """What a writer said that lived for `seconds` and was then killed."""
        pid = self.begin(url, name)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        lines, status = self.said()
        assert status == -signal.SIGKILL, lines[-3:]
        return lines

    def close(self) -> None:
        """Ends the parent of writers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextmanager
def nursery() -> Iterator[Nursery]:
    """A nursery, closed afterwards."""
    made = Nursery()
    try:
        yield made
    finally:
        made.close()


def moments(rounds: int, longest: float) -> Iterator[float]:
    """Random seconds, as many as rounds, the same each time: some within opening, most amid writes."""
    draw = random.Random(7)
    return (draw.uniform(0.0, longest) for _ in range(rounds))


async def check_kept(store: Store, lines: list[str]) -> None:
    """Everything acknowledged is there and whole."""
    for line in lines:
        what, record_id = line.split()
        found = await store.get("kept", record_id)
        assert found is not None, f"{what} {record_id} was acknowledged and is gone"
        assert found["value"] == found["twin"] == found["version"], found
        assert what == "inserted" or found["version"] == 2, f"{record_id} was replaced and is back"
