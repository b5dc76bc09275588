"""What the daemon remembers on disk."""

import errno
from pathlib import Path

import pytest
from tests.daemon_support import order

from aiwm.daemon.ledger import MOST_TOMBSTONES, Ledger
from aiwm.daemon.replicas import ReplicaRecord
from aiwm.protocol.errors import AiwmError
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
@pytest.mark.parametrize("content", [b'{"order": 1}', b"", b"\xff\x00", b"[]", b"null"])
def test_a_record_that_cannot_be_read_is_reported_and_left_alone(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path)
    broken = ledger.folder("replica-1")
    broken.mkdir()
    (broken / "ledger.json").write_bytes(content)
    assert ledger.read() == []
    assert (broken / "ledger.json").read_bytes() == content
    assert "cannot read the ledger" in caplog.text
    assert "replica-1" in ledger.unreadable["replica-1"]
    assert ledger.without_record() == []


@pytest.mark.expects_errors
def test_a_record_cut_at_any_byte_is_read_whole_from_its_copy_or_not_at_all(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    record = ReplicaRecord(order=order(), state=ReplicaState.RUNNING, port=8000)
    ledger.write(record)
    ledger.copy(record)
    path, copy = (ledger.folder("replica-1") / name for name in ("ledger.json", "ledger.copy.json"))
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert Ledger(tmp_path).read() == [record]
    copy.unlink()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        again = Ledger(tmp_path)
        assert again.read() == []
        assert list(again.unreadable) == ["replica-1"]


@pytest.mark.expects_errors
def test_a_record_that_is_about_another_replica_is_not_used(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(ReplicaRecord(order=order()))
    ledger.folder("replica-1").rename(ledger.folder("replica-2"))
    assert Ledger(tmp_path).read() == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"replica-1": "x"}', b'{"replica-1": null}', b"\xff"])
def test_tombstones_that_cannot_be_read_do_not_stop_a_daemon(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tombstones.json").write_bytes(content)
    ledger = Ledger(tmp_path)
    assert "which replicas were stopped" in ledger.unreadable["tombstones.json"]
    ledger.bury("replica-9", 1)
    assert Ledger(tmp_path).buried("replica-9") == 1


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_full_disk_refused_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path)
    record = ReplicaRecord(order=order())
    with monkeypatch.context() as patch:
        patch.setattr("aiwm.daemon.ledger.write_atomically", full)
        with pytest.raises(AiwmError) as caught:
            ledger.write(record)
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        with pytest.raises(AiwmError):
            ledger.bury("replica-2", 7)
        ledger.catch_up()
        assert ledger.behind == 2
        assert ledger.buried("replica-2") == 7
    ledger.catch_up()
    assert ledger.behind == 0
    again = Ledger(tmp_path)
    assert again.read() == [record]
    assert again.buried("replica-2") == 7


def test_what_was_dropped_is_not_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("aiwm.daemon.ledger.write_atomically", full)
        with pytest.raises(AiwmError):
            ledger.write(ReplicaRecord(order=order()))
    ledger.drop("replica-1")
    ledger.catch_up()
    assert Ledger(tmp_path).read() == []


def test_a_folder_without_a_record_is_what_half_a_removal_left(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(ReplicaRecord(order=order()))
    (ledger.folder("replica-0")).mkdir()
    assert ledger.without_record() == ["replica-0"]
