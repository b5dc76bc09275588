"""A controller in a process of its own, with a real Redis and a SQLite file, for benchmarks of one process's size."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from aiwm.infra.redis_server import prepare_redis

_READY_SECONDS = 60.0
_END_SECONDS = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Installation:
    """Where it is, and how to get in as `admin`."""

    url: str
    password: str
    controller: int
    environment: Mapping[str, str]
    folder: Path


@contextmanager
def open_installation(
    folder: Path, *, core: int | None = None, controller: Sequence[str] = ("-m", "aiwm", "controller")
) -> Iterator[Installation]:
    """Runs it until the end; `controller` are the interpreter's arguments, `core` is the only one it may use."""
    password, port, redis_port = secrets.token_hex(16), _free_port(), _free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "AIWM_DATA_DIR": str(folder / "data"),
        "AIWM_STORE_URL": f"sqlite://{folder}/aiwm.db",
        "AIWM_REDIS_URL": f"redis://:{password}@127.0.0.1:{redis_port}/0",
        "AIWM_OBJECTS_URL": f"file://{folder}/objects",
        "AIWM_JWT_SECRET": secrets.token_hex(32),
        "AIWM_ENCRYPTION_KEY": secrets.token_hex(32),
        "AIWM_ADMIN_PASSWORD": password,
        "AIWM_PORT": str(port),
        "AIWM_RATE_LIMIT": "0",
        "AIWM_RATE_LIMIT_ADDRESS": "0",
        "AIWM_LOG_LEVEL": "WARNING",
    }
    with ExitStack() as stack:
        redis = prepare_redis(folder / "redis", redis_port, password)
        stack.enter_context(running(redis, environment, folder / "redis.log"))
        url = f"http://127.0.0.1:{port}"
        command = (sys.executable, *controller)
        process = stack.enter_context(running(command, environment, folder / "controller.log", core=core))
        _await_ready(url, process, folder / "controller.log")
        yield Installation(url, password, process.pid, environment, folder)


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path, *, core: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ends with the context; what it says goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=output)
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def proportional_mb(pid: int) -> float:
    """A process's memory in MiB, its share of what it shares with others included."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _await_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(f"{url}/health/ready", timeout=1):  # noqa: S310 - our own address
                return
        except (URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"cannot start a controller: {log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
