"""The whole `aiwm up`: what it keeps over restarts, and what is left when any of it is killed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

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


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    one = Up(tmp_path)
    yield one
    if one.process is not None and one.process.poll() is None:
        one.stop()


def test_everything_is_kept_over_a_restart_and_the_password_is_shown_once(up: Up) -> None:
    said = up.start()
    found = re.search(r"admin / (\S+)", said)
    assert found is not None, said
    assert found.group(1) == (up.folder / "admin-password").read_text().strip()
    node = until(lambda: [each for each in up.nodes() if each["status"] == "online"])[0]
    assert node["name"] == "local"
    second = subprocess.run(up.command(), capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 2
    assert len(second.stderr.splitlines()) == 1
    assert f"another aiwm up (pid {up.process.pid if up.process else ''})" in second.stderr
    for secret in ("jwt-secret", "encryption-key", "redis-password", "admin-password", "run/redis-url", "node/token"):
        assert (up.folder / secret).stat().st_mode & 0o777 == 0o600
    assert up.folder.stat().st_mode & 0o777 == 0o700
    for part in up.parts().values():
        assert not any(len(word) > 60 and "/" not in word for word in part.cmdline()), "a secret among the arguments"
    assert up.stop(signal.SIGINT) == 0

    assert "admin /" not in up.start()
    again = until(lambda: [each for each in up.nodes() if each["status"] == "online"])
    assert [each["nodeId"] for each in again] == [node["nodeId"]]
    assert up.stop() == 0


def test_every_killed_child_comes_back(up: Up) -> None:
    up.start()
    before = up.parts()
    assert set(before) == set(NAMES)
    for name in NAMES:
        os.kill(before[name].pid, signal.SIGKILL)
    until(lambda: len(after := up.parts()) == len(NAMES) and all(after[name] != before[name] for name in NAMES))
    until(up.ready)
    until(lambda: [each for each in up.nodes() if each["status"] == "online"])
    for name in NAMES:
        assert f"{name.removesuffix('-server')} was killed by SIGKILL" in up.said()


def test_nothing_is_left_of_a_killed_parent_and_the_next_one_starts_at_once(up: Up) -> None:
    up.start()
    family = list(up.parts().values())
    assert up.stop(signal.SIGKILL) == -signal.SIGKILL
    up.start()
    assert not [each for each in family if each.is_running()]
    until(lambda: [each for each in up.nodes() if each["status"] == "online"])
