"""The supervisor of `aiwm up` against services that crash, hang, refuse and leave children behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

HARNESS = Path(__file__).with_name("up_harness.py")
STEADY = 'echo $$ >> "$NAME.pids"; exec sleep 1000'
STUBBORN = 'trap "" TERM; echo $$ >> "$NAME.pids"; while :; do sleep 0.05; done'


def until(fact: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `fact` says once it is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < deadline, "the fact did not come true in time"
        time.sleep(0.02)
    return value


class Supervised:
    """One harness process and what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *services: dict[str, str], **policy: float) -> "Supervised":
        spec = {
            "folder": str(self.folder),
            "policy": {"first_restart": 0.1, "housekeeping": 0.1, **policy},
            "services": [{**each, "script": f"NAME={each['name']}; {each['script']}"} for each in services],
        }
        (self.folder / "spec.json").write_text(json.dumps(spec))
        with (self.folder / "said").open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(HARNESS), str(self.folder / "spec.json")], stdout=said, stderr=subprocess.STDOUT
            )
        return self

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def pids(self, name: str) -> list[int]:
        path = self.folder / f"{name}.pids"
        return list(map(int, path.read_text().split())) if path.exists() else []

    def ready(self) -> "Supervised":
        until(lambda: "ready\n" in self.said())
        return self

    def tell(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, seconds: float = 10.0) -> int:
        assert self.process is not None
        return self.process.wait(seconds)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    one = Supervised(tmp_path)
    yield one
    if one.process is not None and one.process.poll() is None:
        one.tell(signal.SIGTERM)
        one.tell(signal.SIGTERM)
        one.ended()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_crashed_service_is_started_again_after_growing_pauses(supervised: Supervised) -> None:
    crash = {"name": "crash", "script": 'echo $$ >> "$NAME.pids"; exit 7'}
    supervised.start(crash, {"name": "steady", "script": STEADY})
    until(lambda: len(supervised.pids("crash")) >= 4)
    lines = [line for line in supervised.said().splitlines() if line.startswith("crash ended with exit code 7")]
    assert all(str(supervised.folder / "crash.log") in line for line in lines)
    pauses = [float(found.group(1)) for line in lines if (found := re.search(r"again in ([\d.]+) s", line))]
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]
    assert len(supervised.pids("steady")) == 1


def test_a_service_that_was_healthy_for_long_starts_with_the_short_pause_again(supervised: Supervised) -> None:
    supervised.start({"name": "brief", "script": 'echo $$ >> "$NAME.pids"; sleep 0.15; exit 1'}, healthy_after=0.1)
    until(lambda: len(supervised.pids("brief")) >= 5)
    assert set(re.findall(r"again in ([\d.]+) s", supervised.said())) == {"0.1"}


def test_a_killed_service_comes_back_as_another_process(supervised: Supervised) -> None:
    supervised.start({"name": "steady", "script": STEADY}).ready()
    first = until(lambda: supervised.pids("steady"))[0]
    os.kill(first, signal.SIGKILL)
    until(lambda: len(supervised.pids("steady")) == 2)
    assert "steady was killed by SIGKILL" in supervised.said()


def test_ending_is_orderly_and_leaves_nothing(supervised: Supervised) -> None:
    supervised.start({"name": "one", "script": STEADY}, {"name": "two", "script": STEADY}).ready()
    pids = until(lambda: supervised.pids("one")) + until(lambda: supervised.pids("two"))
    supervised.tell(signal.SIGTERM)
    assert supervised.ended(3) == 0
    assert all(map(gone, pids))


def test_a_service_that_does_not_listen_is_killed_at_the_deadline(supervised: Supervised) -> None:
    supervised.start({"name": "stubborn", "script": STUBBORN}, stop_within=0.8).ready()
    pid = until(lambda: supervised.pids("stubborn"))[0]
    began = time.monotonic()
    supervised.tell(signal.SIGTERM)
    assert supervised.ended(5) == 0
    assert 0.7 < time.monotonic() - began < 3
    assert gone(pid)
    assert "stubborn did not end in time and is killed" in supervised.said()


def test_a_second_signal_does_not_wait_for_the_deadline(supervised: Supervised) -> None:
    supervised.start({"name": "stubborn", "script": STUBBORN}, stop_within=60).ready()
    until(lambda: supervised.pids("stubborn"))
    supervised.tell(signal.SIGTERM)
    time.sleep(0.1)
    supervised.tell(signal.SIGTERM)
    assert supervised.ended(5) == 0


def test_what_a_service_left_behind_in_its_own_session_ends_too(supervised: Supervised) -> None:
    leaves = "setsid sh -c 'echo $$ >> orphan.pids; exec sleep 1000' & " + STEADY
    supervised.start({"name": "leaves", "script": leaves}).ready()
    orphan = until(lambda: supervised.pids("orphan"))[0]
    os.kill(until(lambda: supervised.pids("leaves"))[0], signal.SIGKILL)
    until(lambda: len(supervised.pids("leaves")) == 2)
    assert not gone(orphan)
    supervised.tell(signal.SIGTERM)
    assert supervised.ended(5) == 0
    assert all(map(gone, supervised.pids("orphan")))


def test_nothing_is_left_when_the_supervisor_itself_is_killed(supervised: Supervised) -> None:
    supervised.start({"name": "one", "script": STEADY}, {"name": "two", "script": STEADY}).ready()
    pids = until(lambda: supervised.pids("one")) + until(lambda: supervised.pids("two"))
    supervised.tell(signal.SIGKILL)
    supervised.ended()
    until(lambda: all(map(gone, pids)))


def test_a_service_that_refuses_its_settings_ends_the_start_with_its_own_words(supervised: Supervised) -> None:
    refuses = {"name": "refuses", "script": "echo cannot use AIWM_X: it is wrong; exit 2", "readyFile": "never"}
    supervised.start(refuses)
    assert supervised.ended() == 2
    assert "cannot start refuses: cannot use AIWM_X: it is wrong" in supervised.said()


def test_a_service_that_keeps_crashing_before_it_is_ready_ends_the_start(supervised: Supervised) -> None:
    supervised.start({"name": "crash", "script": "echo broken; exit 1", "readyFile": "never"})
    assert supervised.ended() == 1
    assert "cannot start crash: broken" in supervised.said()


def test_a_service_that_is_never_ready_ends_the_start(supervised: Supervised) -> None:
    supervised.start({"name": "slow", "script": STEADY, "readyFile": "never"}, start_within=0.5)
    assert supervised.ended() == 1
    assert "cannot start slow: it was not ready within 0 s: no never" in supervised.said()
    assert gone(supervised.pids("slow")[0])
