"""What each replica uses: the processes below its engine, added up.

One pass over /proc for all replicas together, so that a node with many costs no more than one with few. Memory is the
resident size of each process added up: what an engine's processes share is counted once for each of them. The
proportional size would be right, but reading it walks every page table and stalls a large engine for milliseconds.
"""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiwm.daemon.launchers.port import Running
from aiwm.protocol.node_channel import ReplicaUsage

_MIB = 2**20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """`ticks` is processor time, that of ended and awaited children included; so a tree's sum loses nothing."""

    pid: int
    parent: int
    ticks: int
    start_time: int
    resident: int


class Usage:
    """Processor time is told from the second reading on: it is what was used since the one before."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, proc: Path = _PROC) -> None:
        self._monotonic, self._proc = monotonic, proc
        self._before: dict[tuple[str, Running], tuple[int, float]] = {}

    def read(self, engines: Mapping[str, Running], gpu_memory: Mapping[int, int] | None) -> list[ReplicaUsage]:
        """By replica id. An engine that is gone by now has none; `gpu_memory` is MiB by process, None if not told."""
        # Also what a heartbeat asks, in between: it must not cost the others what they compare with.
        if not engines:
            return []
        now, processes = self._monotonic(), {each.pid: each for each in read_processes(self._proc)}
        children: dict[int, list[Process]] = defaultdict(list)
        for each in processes.values():
            children[each.parent].append(each)
        before, self._before = self._before, {}
        found = []
        for replica_id, running in engines.items():
            engine = processes.get(running.pid)
            # By now the pid may be another program's.
            if engine is None or engine.start_time != running.start_time:
                continue
            tree, key = _tree(engine, children), (replica_id, running)
            ticks = sum(each.ticks for each in tree)
            self._before[key] = (ticks, now)
            found.append(
                ReplicaUsage(
                    replica_id=replica_id,
                    cpu_utilization=_percent(before.get(key), ticks, now),
                    ram_used=sum(each.resident for each in tree) // _MIB,
                    gpu_memory_used=None if gpu_memory is None else sum(gpu_memory.get(each.pid, 0) for each in tree),
                )
            )
        return found


def read_processes(proc: Path) -> Iterator[Process]:
    """Every process there is; one that ends meanwhile is left out."""
    for entry in os.listdir(proc):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                yield _process(int(entry), (proc / entry / "stat").read_text(errors="replace"))


def _process(pid: int, stat: str) -> Process:
    # The program's name may hold anything, spaces and brackets too.
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        ticks=sum(int(each) for each in fields[11:15]),
        start_time=int(fields[19]),
        resident=int(fields[21]) * _PAGE,
    )


def _tree(root: Process, children: Mapping[int, list[Process]]) -> list[Process]:
    found = {root.pid: root}
    waiting = [root]
    while waiting:
        # A pid that was given anew during the pass must not lead round in a circle.
        below = [each for each in children.get(waiting.pop().pid, []) if each.pid not in found]
        found.update((each.pid, each) for each in below)
        waiting += below
    return list(found.values())


def _percent(before: tuple[int, float] | None, ticks: int, now: float) -> float | None:
    if before is None or now <= before[1]:
        return None
    return round(max(0, ticks - before[0]) / _TICKS / (now - before[1]) * 100, 1)
