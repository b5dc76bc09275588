"""What the daemon remembers on disk."""

from pathlib import Path

import pytest
from tests.daemon_support import order

from aiwm.daemon.ledger import MOST_TOMBSTONES, Ledger
from aiwm.daemon.replicas import ReplicaRecord
from aiwm.protocol.states import ReplicaState


def test_what_was_written_is_read_again_by_the_next_daemon(tmp_path: Path) -> None:
    record = ReplicaRecord(order=order(environment_variables={"A": "b"}), state=ReplicaState.RUNNING, port=8000)
    Ledger(tmp_path).write(record)
    assert Ledger(tmp_path).read() == [record]
    assert (tmp_path / "replicas/replica-1/ledger.json").stat().st_mode & 0o077 == 0


def test_a_forgotten_replica_leaves_nothing_but_its_tombstone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(ReplicaRecord(order=order()))
    (ledger.folder("replica-1") / "engine.log").write_text("x")
    ledger.bury("replica-1", 3)
    ledger.bury("replica-1", 2)
    ledger.forget("replica-1")
    again = Ledger(tmp_path)
    assert again.read() == []
    assert not again.folder("replica-1").exists()
    assert again.buried("replica-1") == 3


def test_tombstones_are_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger._tombstones = {f"replica-{number}": 1 for number in range(MOST_TOMBSTONES)}
    ledger.bury("replica-new", 1)
    assert ledger.buried("replica-0") is None
    assert ledger.buried("replica-1") == 1
    assert ledger.buried("replica-new") == 1


def test_clearing_keeps_the_record_and_nothing_else(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(ReplicaRecord(order=order()))
    folder = ledger.folder("replica-1")
    (folder / "workspace").mkdir()
    (folder / "state.json").write_text("{}")
    ledger.clear("replica-1")
    assert [path.name for path in folder.iterdir()] == ["ledger.json"]


@pytest.mark.expects_errors
def test_a_record_that_cannot_be_read_is_reported_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path)
    broken = ledger.folder("replica-1")
    broken.mkdir()
    (broken / "ledger.json").write_text('{"order": 1}')
    assert ledger.read() == []
    assert (broken / "ledger.json").exists()
    assert "cannot read the ledger" in caplog.text
