"""The store on SQLite: one file that several processes share, or memory as the fast twin.

Writes go through one thread with group commit. Point reads run on a connection of the event loop's own (a few
microseconds, no hop); scans run in a thread, on a third connection.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiwm.infra.store import sqlite_query
from aiwm.infra.store.documents import record_id as id_of
from aiwm.infra.store.port import Condition, Index, Query, Record
from aiwm.infra.store.sqlite_connection import MEMORY, connect, contended, make_private, translated
from aiwm.infra.store.sqlite_text import from_row, to_text
from aiwm.infra.store.sqlite_writer import GroupWriter, InlineWriter, T, Work, Writer
from aiwm.protocol.errors import Unavailable


async def open_sqlite(path: str | Path) -> "SqliteStore":
    """The store in the file at `path`, made if missing, or `:memory:`; `Unavailable` when it cannot be used."""
    name = str(path)
    with translated(name):
        if name == MEMORY:
            connection = connect(MEMORY)
            return SqliteStore(name, InlineWriter(connection), _Reader(connection, None))
        make_private(name)
        writing, points, scans = await asyncio.to_thread(_connections, name)
        return SqliteStore(name, GroupWriter(writing), _Reader(points, scans))


def _connections(path: str) -> tuple[sqlite3.Connection, sqlite3.Connection, sqlite3.Connection]:
    with translated(path):
        # The loop's own connection never waits: what is contended is read again in the scanning thread.
        return connect(path), connect(path, busy_seconds=0), connect(path)


class _Reader:
    """Reads: points at once, scans in a thread of their own where there is a second connection for it."""

    def __init__(self, points: sqlite3.Connection, scans: sqlite3.Connection | None) -> None:
        self._points, self._scans = points, scans
        self._thread = ThreadPoolExecutor(1, "store-reader") if scans else None

    async def point(self, work: Work[T]) -> T:
        try:
            return work(self._points)
        except sqlite3.OperationalError as error:
            if self._scans is None or not contended(error):
                raise
            return await self.scan(work)

    async def scan(self, work: Work[T]) -> T:
        if self._thread is None or self._scans is None:
            await asyncio.sleep(0)
            return work(self._points)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._scans)

    async def close(self) -> None:
        if self._thread is not None and self._scans is not None:
            await asyncio.to_thread(self._thread.shutdown)
            self._scans.close()
        self._points.close()


class SqliteStore:
    """`Store` on SQLite."""

    def __init__(self, path: str, writer: Writer, reader: _Reader) -> None:
        self._path, self._writer, self._reader = path, writer, reader
        self._tables: set[str] = set()
        self._closed = False

    async def _write(self, work: Work[T]) -> T:
        self._check_open()
        with translated(self._path):
            return await self._writer.write(work)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"cannot use the store {self._path}: it is closed")

    async def _table(self, collection: str) -> str:
        if collection not in self._tables:
            statement = sqlite_query.create_table(collection)
            await self._write(lambda connection: connection.execute(statement).rowcount)
            self._tables.add(collection)
        return sqlite_query.table(collection)

    async def insert(self, collection: str, record: Record) -> None:
        row = (id_of(record), to_text(record))
        statement = f"INSERT INTO {await self._table(collection)} VALUES (?, 1, ?)"  # noqa: S608 - a checked name
        await self._write(lambda connection: connection.execute(statement, row).rowcount)

    async def get(self, collection: str, record_id: str) -> Record | None:
        statement = f"SELECT id, version, doc FROM {await self._table(collection)} WHERE id = ?"  # noqa: S608 - a checked name
        self._check_open()
        with translated(self._path):
            row = await self._reader.point(lambda connection: connection.execute(statement, (record_id,)).fetchone())
        return None if row is None else from_row(row)

    async def replace(self, collection: str, record: Record, *, version: int) -> bool:
        row = (to_text(record), id_of(record), version)
        table = await self._table(collection)
        statement = f"UPDATE {table} SET version = version + 1, doc = ? WHERE id = ? AND version = ?"  # noqa: S608 - a checked name
        return await self._write(lambda connection: connection.execute(statement, row).rowcount) == 1

    async def find(self, collection: str, query: Query) -> list[Record]:
        statement, parameters = sqlite_query.select(collection, query)
        await self._table(collection)
        self._check_open()
        with translated(self._path):
            return await self._reader.scan(
                lambda connection: [from_row(row) for row in connection.execute(statement, parameters)]
            )

    async def count(self, collection: str, where: Sequence[Condition] = ()) -> int:
        condition, parameters = sqlite_query.matching(where)
        statement = f"SELECT count(*) FROM {await self._table(collection)} WHERE {condition}"  # noqa: S608 - checked names
        self._check_open()
        with translated(self._path):
            row = await self._reader.scan(lambda connection: connection.execute(statement, parameters).fetchone())
        return int(row[0])

    async def delete(self, collection: str, record_id: str) -> bool:
        statement = f"DELETE FROM {await self._table(collection)} WHERE id = ?"  # noqa: S608 - a checked name
        return await self._write(lambda connection: connection.execute(statement, (record_id,)).rowcount) == 1

    async def delete_range(self, collection: str, where: Sequence[Condition]) -> int:
        if not where:
            raise ValueError("delete_range needs a condition")
        condition, parameters = sqlite_query.matching(where)
        statement = f"DELETE FROM {await self._table(collection)} WHERE {condition}"  # noqa: S608 - checked names
        return await self._write(lambda connection: connection.execute(statement, parameters).rowcount)

    async def ensure_index(self, index: Index) -> None:
        statement = sqlite_query.create_index(index)
        await self._table(index.collection)
        await self._write(lambda connection: connection.execute(statement).rowcount)

    async def ping(self) -> None:
        self._check_open()
        with translated(self._path):
            await self._reader.scan(lambda connection: connection.execute("SELECT 1 FROM sqlite_schema").fetchone())

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._writer.close()
            await self._reader.close()
