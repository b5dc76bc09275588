"""What is known of a container: an answer that is missing, late or out of order never makes up an end."""

import json
from pathlib import Path
from typing import Any

import pytest

from aiwm.daemon.launchers.docker_table import NOTE, Table
from aiwm.daemon.launchers.docker_words import DOCKER_RESTARTED, MACHINE_RESTARTED, REMOVED
from aiwm.daemon.launchers.port import Ended, Running

BEGAN, AGAIN = "2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z"


def table() -> Table:
    return Table(start_time=lambda pid: pid * 10 if pid else None, boot=lambda: "boot-1")


def said(status: str = "running", *, id: str = "c1", pid: int = 5, began: str = BEGAN, **state: Any) -> dict[str, Any]:
    running = status in ("running", "paused")
    return {
        "Id": id,
        "Name": "/demo",
        "HostConfig": {},
        "State": {
            "Status": status,
            "Running": running,
            "Paused": status == "paused",
            "Pid": pid if running else 0,
            "ExitCode": 0,
            "StartedAt": began,
            **state,
        },
    }


@pytest.fixture
def known(tmp_path: Path) -> Table:
    """One container that was made and runs."""
    one = table()
    one.begin(tmp_path, "demo").id = "c1"
    one.see(tmp_path, said())
    return one


def status(one: Table, folder: Path) -> Running | Ended | None:
    found = one.find(folder)
    return None if found is None else found.status


def test_what_runs_is_known_and_a_pause_is_a_note(known: Table, tmp_path: Path) -> None:
    assert status(known, tmp_path) == Running(5, 50)
    known.see(tmp_path, said("paused"))
    paused = status(known, tmp_path)
    assert paused == Running(5, 50)
    assert isinstance(paused, Running)
    assert paused.note == "somebody paused its container; docker unpause demo"


def test_a_late_answer_revives_nothing(known: Table, tmp_path: Path) -> None:
    known.see(tmp_path, said("exited", ExitCode=3))
    known.see(tmp_path, said())
    assert status(known, tmp_path) == Ended("ended with code 3")
    known.see(tmp_path, said(pid=6, began=AGAIN))
    assert status(known, tmp_path) == Running(6, 60)


def test_another_container_of_the_folder_changes_nothing(known: Table, tmp_path: Path) -> None:
    known.see(tmp_path, said("exited", id="c0"))
    known.lose(tmp_path, "c0")
    assert status(known, tmp_path) == Running(5, 50)


def test_an_end_during_an_outage_is_docker_s(known: Table, tmp_path: Path) -> None:
    known.see(tmp_path, said("exited", ExitCode=137), outage=True)
    assert status(known, tmp_path) == DOCKER_RESTARTED


def test_but_not_one_for_want_of_memory(known: Table, tmp_path: Path) -> None:
    known.see(tmp_path, said("exited", ExitCode=137, OOMKilled=True), outage=True)
    assert "memory limit" in str(status(known, tmp_path))


def test_a_container_that_is_gone_was_removed_unless_it_had_ended(known: Table, tmp_path: Path) -> None:
    known.lose(tmp_path, "c1")
    assert status(known, tmp_path) == REMOVED
    known.see(tmp_path, said("exited", id="c2", ExitCode=3))
    known.lose(tmp_path, "c2")
    assert status(known, tmp_path) == Ended("ended with code 3")


def test_what_we_end_ourselves_is_not_removed_by_others(known: Table, tmp_path: Path) -> None:
    found = known.find(tmp_path)
    assert found is not None
    found.ending = True
    known.lose(tmp_path, "c1")
    assert status(known, tmp_path) == Running(5, 50)


def test_a_later_daemon_without_docker_takes_it_to_run_on(known: Table, tmp_path: Path) -> None:
    found = known.find(tmp_path)
    assert found is not None
    known.note(tmp_path, found)
    later = table()
    assert status(later, tmp_path) == Running(5, 50)
    # Once Docker has named all there are, one that it did not name is gone.
    listed = table()
    listed.listed = True
    assert status(listed, tmp_path) == REMOVED
    rebooted = Table(start_time=lambda pid: None, boot=lambda: "boot-2")
    assert status(rebooted, tmp_path) == MACHINE_RESTARTED
    rebooted.see(tmp_path, said("exited", ExitCode=255))
    assert status(rebooted, tmp_path) == MACHINE_RESTARTED


def test_half_a_start_has_a_folder_and_no_state(tmp_path: Path) -> None:
    table().begin(tmp_path, "demo")
    later = table()
    assert later.find(tmp_path) is not None
    assert status(later, tmp_path) is None
    later.see(tmp_path, said("created", began="0001-01-01T00:00:00Z"))
    assert status(later, tmp_path) is None
    later.forget(tmp_path)
    assert table().find(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "a", "pid": "x"}', '{"name": "a", "pid": 1}'])
def test_a_note_that_cannot_be_read_still_says_that_there_is_one(tmp_path: Path, content: str) -> None:
    (tmp_path / NOTE).write_text(content)
    assert table().find(tmp_path) is not None
    assert status(table(), tmp_path) is None


def test_a_note_holds_no_more_than_it_takes(known: Table, tmp_path: Path) -> None:
    found = known.find(tmp_path)
    assert found is not None
    known.note(tmp_path, found)
    assert json.loads((tmp_path / NOTE).read_text()) == {
        "name": "demo",
        "id": "c1",
        "bootId": "boot-1",
        "pid": 5,
        "startTime": 50,
    }


def test_what_runs_for_a_replica_without_a_folder_is_forgotten(tmp_path: Path) -> None:
    one, gone = table(), tmp_path / "gone"
    (tmp_path / "here").mkdir()
    for folder in (gone, tmp_path / "here", tmp_path / "others" / "gone"):
        one.see(folder, said())
    one.see(tmp_path / "ended", said("exited"))
    assert one.forgotten(tmp_path) == ["demo"]
    one.lose(gone, "c1")
    assert one.forgotten(tmp_path) == []
