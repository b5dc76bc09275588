"""Several processes on one SQLite file at once, as controller, notifications and worker are."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.faults.store_nursery import nursery
from tests.faults.store_writer import INCREMENTS

from aiwm.infra.store import sqlite, sqlite_connection
from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Query
from aiwm.infra.store.sqlite import open_sqlite
from aiwm.protocol.errors import Unavailable

PROCESSES = 4
OPENINGS = 3


async def test_processes_that_open_one_new_file_at_once_lose_no_write_and_see_no_lock(tmp_path: Path) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(nursery()) for _ in range(PROCESSES)]
        for opening in range(OPENINGS):
            url = f"sqlite://{tmp_path}/store{opening}.db"
            for number, process in enumerate(processes):
                process.begin(url, f"p{number}", "increment")
            statuses = [(await asyncio.to_thread(process.said))[1] for process in processes]
            assert statuses == [0] * PROCESSES
            store = await open_store(url)
            [found] = await store.find("counters", Query())
            assert found["count"] == PROCESSES * INCREMENTS
            own = [await store.count(f"own_p{number}") for number in range(PROCESSES)]
            assert min(own) >= INCREMENTS
            await store.close()


def limited(pragma: str) -> Callable[..., sqlite3.Connection]:
    def connect(path: str, **options: float) -> sqlite3.Connection:
        connection = sqlite_connection.connect(path, **options)
        connection.execute(pragma)
        return connection

    return connect


async def test_a_lock_held_for_a_moment_is_waited_out(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await open_sqlite(path)
    await store.insert("things", {"id": "a"})
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    assert await store.get("things", "a") is not None
    await store.insert("things", {"id": "b"})
    assert not other.in_transaction
    other.close()
    await store.close()


async def test_a_lock_held_for_too_long_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "connect", limited("PRAGMA busy_timeout=50"))
    path = tmp_path / "store.db"
    store = await open_sqlite(path)
    await store.insert("things", {"id": "a"})
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="another process has been writing"):
        await store.insert("things", {"id": "b"})
    other.execute("ROLLBACK")
    other.close()
    await store.insert("things", {"id": "b"})
    await store.close()


async def test_a_full_disk_is_said_and_takes_nothing_that_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "connect", limited("PRAGMA max_page_count=20"))
    store = await open_sqlite(tmp_path / "store.db")
    await store.insert("things", {"id": "a"})
    writes = (store.insert("things", {"id": f"big{n}", "x": "x" * 30_000}) for n in range(10))
    results = await asyncio.gather(*writes, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Unavailable)]
    assert refused
    assert all("the disk is full; free some space" in error.message for error in refused)
    assert await store.count("things") == 1 + sum(result is None for result in results)
    await store.delete("things", "a")
    await store.insert("things", {"id": "b"})
    await store.close()


async def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await open_sqlite(tmp_path / "store.db")).close()
    monkeypatch.setattr(sqlite, "connect", limited("PRAGMA query_only=1"))
    store = await open_sqlite(tmp_path / "store.db")
    with pytest.raises(Unavailable, match="cannot be written; check the permissions"):
        await store.insert("things", {"id": "a"})
    await store.close()


async def test_a_path_that_is_no_database_is_said(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("dear diary, " * 100)
    for path, cause in (
        (text, "not a SQLite database"),
        (tmp_path, "cannot be opened"),
        (text / "x", "cannot be opened"),
    ):
        with pytest.raises(Unavailable, match=cause):
            await open_store(f"sqlite://{path}")
    with pytest.raises(Unavailable, match="check that its folder exists"):
        await open_store(f"sqlite://{tmp_path}/missing/store.db")
    assert text.read_text().startswith("dear diary")


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path / "store.db")
    await store.insert("things", {"id": "a"})
    assert modes(tmp_path) == {0o600}
    await store.close()
