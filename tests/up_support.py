"""A whole `aiwm up` as a child process of a test: start it, ask it, kill parts of it."""

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from aiwm.apps.up.folder import free_port

NAMES = ("redis-server", "controller", "noti", "worker", "node")


def until(fact: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `fact` says once it is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < deadline, "the fact did not come true in time"
        time.sleep(0.05)
    return value


class Up:
    """One data folder and the `aiwm up` that runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        self.said_file = folder / "said"
        self.port, self.noti_port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        ports = ["--port", str(self.port), "--noti-port", str(self.noti_port)]
        return [sys.executable, "-m", "aiwm", "up", "--data-dir", str(self.folder), *ports]

    def start(self) -> str:
        """Returns what it said by the time it was ready."""
        with self.said_file.open("wb") as said:
            self.process = subprocess.Popen(self.command(), stdout=said, stderr=subprocess.STDOUT)
        until(lambda: "ready in" in self.said() or self.process is None or self.process.poll() is not None, 60)
        assert "ready in" in self.said(), self.said()
        return self.said()

    def said(self) -> str:
        return self.said_file.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(10)

    def parts(self) -> dict[str, psutil.Process]:
        """Its children by name."""
        assert self.process is not None
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                words = [Path(word).name for word in " ".join(child.cmdline()).split()]
                found.update({name: child for name in NAMES if name in words})
        return found

    def ready(self) -> bool:
        try:
            for port in (self.port, self.noti_port):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5).close()
        except OSError:
            return False
        return True

    def ask(self, path: str, body: dict[str, str] | None = None, token: str = "") -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/v1{path}", data, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def login(self) -> str:
        password = (self.folder / "admin-password").read_text().strip()
        return str(self.ask("/auth/login", {"username": "admin", "password": password})["accessToken"])

    def nodes(self) -> list[dict[str, Any]]:
        return list(self.ask("/nodes", token=self.login())["data"])
