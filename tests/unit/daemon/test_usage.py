"""What a replica uses, from the processes below its engine."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import psutil

from aiwm.daemon import keeper
from aiwm.daemon.launchers.port import Running
from aiwm.daemon.processor import Processor
from aiwm.daemon.usage import Usage, read_processes

PAGES_PER_MIB = 2**20 // os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def process(proc: Path, pid: int, *, parent: int, ticks: int = 0, started: int = 5, mib: int = 1) -> None:
    """One line of /proc, of a program with an awkward name."""
    fields = ["S", str(parent), *["0"] * 9, str(ticks), "0", "0", "0", *["0"] * 4, str(started), "0"]
    fields.append(str(mib * PAGES_PER_MIB))
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "stat").write_text(f"{pid} (a) b (c\n) {' '.join(fields)}\n")


def test_a_replica_s_usage_is_that_of_its_whole_tree(tmp_path: Path) -> None:
    clock, engine = Clock(), Running(10, 5)
    usage = Usage(clock, tmp_path)
    (tmp_path / "meminfo").write_text("no process")
    process(tmp_path, 10, parent=1, ticks=100, mib=3)
    process(tmp_path, 11, parent=10, ticks=100, mib=4)
    process(tmp_path, 12, parent=11, ticks=100, mib=5)
    process(tmp_path, 99, parent=1, ticks=999, mib=900)
    (first,) = usage.read({"r-1": engine}, {12: 70, 11: 7, 99: 5})
    assert (first.cpu_utilization, first.ram_used, first.gpu_memory_used) == (None, 12, 77)
    clock.now = 2.0
    process(tmp_path, 12, parent=11, ticks=100 + 3 * TICKS, mib=5)
    (second,) = usage.read({"r-1": engine}, None)
    assert (second.cpu_utilization, second.gpu_memory_used) == (150.0, None)


def test_engines_that_are_gone_or_whose_pid_is_another_s_are_left_out(tmp_path: Path) -> None:
    usage = Usage(Clock(), tmp_path)
    process(tmp_path, 10, parent=1, started=6)
    assert usage.read({"r-1": Running(10, 5), "r-2": Running(11, 5)}, {}) == []


def test_an_engine_that_was_started_again_begins_anew(tmp_path: Path) -> None:
    clock = Clock()
    usage = Usage(clock, tmp_path)
    process(tmp_path, 10, parent=1, ticks=500)
    usage.read({"r-1": Running(10, 5)}, None)
    clock.now = 1.0
    process(tmp_path, 11, parent=1, ticks=1)
    (again,) = usage.read({"r-1": Running(11, 5)}, None)
    assert again.cpu_utilization is None


def test_time_that_vanished_with_a_process_is_not_negative(tmp_path: Path) -> None:
    clock = Clock()
    usage = Usage(clock, tmp_path)
    process(tmp_path, 10, parent=1, ticks=500)
    usage.read({"r-1": Running(10, 5)}, None)
    clock.now = 1.0
    process(tmp_path, 10, parent=1, ticks=400)
    (each,) = usage.read({"r-1": Running(10, 5)}, None)
    assert each.cpu_utilization == 0


def test_a_circle_of_parents_is_walked_once(tmp_path: Path) -> None:
    process(tmp_path, 10, parent=11)
    process(tmp_path, 11, parent=10)
    (each,) = Usage(Clock(), tmp_path).read({"r-1": Running(10, 5)}, None)
    assert each.ram_used == 2


def test_who_asks_for_no_engine_in_between_changes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    usage = Usage(clock, tmp_path)
    process(tmp_path, 10, parent=1, ticks=0)
    usage.read({"r-1": Running(10, 5)}, None)
    usage.read({}, None)
    clock.now = 1.0
    process(tmp_path, 10, parent=1, ticks=TICKS)
    (each,) = usage.read({"r-1": Running(10, 5)}, None)
    assert each.cpu_utilization == 100


def test_no_engines_cost_no_look(tmp_path: Path) -> None:
    assert Usage(Clock(), tmp_path / "nowhere").read({}, None) == []


def test_this_machine_s_own_processes_are_read_as_psutil_reads_them() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = {each.pid: each for each in read_processes(Path("/proc"))}[child.pid]
        assert (found.parent, found.start_time) == (os.getpid(), keeper.start_time(child.pid))
        assert abs(found.resident - psutil.Process(child.pid).memory_info().rss) < 64 * 2**20
    finally:
        child.communicate(b"\n")


class Times(NamedTuple):
    user: float
    idle: float
    iowait: float = 0.0
    guest: float = 0.0
    guest_nice: float = 0.0


def test_the_processors_are_as_busy_in_one_thread_as_in_another() -> None:
    clock, times = Clock(), iter([Times(0, 0), Times(3, 1), Times(4, 8, 3, guest=1)])
    processor = Processor(lambda: next(times), clock)
    assert processor.percent() == 0
    clock.now = 10.0
    asked: list[float] = []
    thread = threading.Thread(target=lambda: asked.append(processor.percent()))
    thread.start()
    thread.join()
    assert (asked, processor.percent()) == ([75.0], 75.0)
    clock.now = 20.0
    # One second of eleven: the guest's is told as "user" too.
    assert processor.percent() == 9.1
