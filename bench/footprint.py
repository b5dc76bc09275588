"""What `aiwm up` costs when idle: memory of each process, time to ready, processor time; printed as a table.

Memory is the proportional set size: pages shared by several processes are divided among them.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from aiwm.testing.installation import cpu_seconds, proportional_mb

IDLE_SECONDS = 20.0
SETTLE_SECONDS = 5.0


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def name_of(process: psutil.Process) -> str:
    """`controller`, `redis-server`, … from the command line."""
    words = [Path(word).name for word in " ".join(process.cmdline()).split()]
    known = ("redis-server", "controller", "noti", "worker", "node", "up")
    return next((name for name in known if name in words), words[0] if words else "?")


def wait_ready(up: "subprocess.Popen[bytes]", said: Path) -> float:
    """Seconds until it says that it is ready."""
    began = time.monotonic()
    while b"ready in" not in said.read_bytes():
        if up.poll() is not None or time.monotonic() - began > 60:
            sys.exit(f"aiwm up did not become ready:\n{said.read_text()}")
        time.sleep(0.02)
    return time.monotonic() - began


def measure(folder: Path) -> None:
    """Starts it twice (the second finds everything made), measures the second."""
    command = [sys.executable, "-m", "aiwm", "up", "--data-dir", str(folder / "data")]
    command += ["--port", str(free_port()), "--noti-port", str(free_port())]
    ready = []
    for run in ("first", "again"):
        said = folder / run
        with said.open("wb") as output:
            up = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            ready.append(wait_ready(up, said))
            if run == "again":
                report(up.pid, ready)
        finally:
            up.send_signal(signal.SIGTERM)
            began = time.monotonic()
            up.wait(15)
    print(f"| stopped in | {time.monotonic() - began:.1f} s | 10 s |")


def report(pid: int, ready: list[float]) -> None:
    """Prints the table of a stack that is ready."""
    time.sleep(SETTLE_SECONDS)
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    before = {each.pid: cpu_seconds(each.pid) for each in family}
    time.sleep(IDLE_SECONDS)
    print("| process | PSS MB | CPU % of a core |\n|---|---|---|")
    total_memory = total_cpu = 0.0
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            memory = proportional_mb(each.pid)
            cpu = (cpu_seconds(each.pid) - before[each.pid]) / IDLE_SECONDS * 100
            total_memory, total_cpu = total_memory + memory, total_cpu + cpu
            print(f"| {name_of(each)} | {memory:.0f} | {cpu:.2f} |")
    print(f"| **all** | **{total_memory:.0f}** | **{total_cpu:.2f}** |\n")
    print("| | measured | must |\n|---|---|---|")
    print(f"| ready, first start | {ready[0]:.1f} s | 8 s |\n| ready, again | {ready[1]:.1f} s | 8 s |")
    print(f"| whole idle stack | {total_memory:.0f} MB | 500 MB |\n| idle | {total_cpu:.1f} % of a core | 3 % |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch))
