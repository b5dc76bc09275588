"""The whole `aiwm up`: what it keeps over restarts, and what is left when any of it is killed."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.up_support import NAMES, Up, until


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
    assert not [each for each in family if _runs(each)]
    until(lambda: [each for each in up.nodes() if each["status"] == "online"])


def _runs(process: psutil.Process) -> bool:
    """A process that has ended is a zombie until the machine's init has looked."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
