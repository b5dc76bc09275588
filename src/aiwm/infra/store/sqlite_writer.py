"""One thread that writes: whatever waits goes into one transaction, so that many writes share one flush to disk."""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aiwm.protocol.errors import Unavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_BATCH = 500


class Writer(Protocol):
    """Runs one writing statement; it is durable when `write` returns."""

    async def write(self, work: Work[T]) -> T:
        """What `work` returns. `work` executes exactly one statement, so that its failure undoes nothing else."""
        ...

    async def close(self) -> None:
        """Finishes what was given, then ends."""
        ...


@dataclass(frozen=True, slots=True)
class _Item:
    work: Work[Any]
    done: "asyncio.Future[Any]"


Outcome = tuple[_Item, object, BaseException | None]


class InlineWriter:
    """For a database in memory: nothing to wait for. It yields first, so that callers interleave as they would."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def write(self, work: Work[T]) -> T:
        await asyncio.sleep(0)
        return work(self._connection)

    async def close(self) -> None:
        self._connection.close()


class GroupWriter:
    """Owns the writing connection and its thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Work[T]) -> T:
        if self._closed:
            raise Unavailable("cannot write to the store: it is closed")
        done: asyncio.Future[T] = self._loop.create_future()
        self._items.put(_Item(work, done))
        return await done

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._items.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (batch := self._drain()) is not None:
            outcomes = self._commit(batch)
            # The loop may have ended with writes under way: then nobody waits for them.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_settle, outcomes)
        self._connection.close()

    def _drain(self) -> list[_Item] | None:
        first = self._items.get()
        if first is None:
            return None
        batch = [first]
        with suppress(queue.Empty):
            while len(batch) < _BATCH:
                item = self._items.get_nowait()
                if item is None:
                    self._items.put(None)
                    break
                batch.append(item)
        return batch

    def _commit(self, batch: list[_Item]) -> list[Outcome]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._outcome(item) for item in batch]
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):  # SQLite has ended the transaction itself after some errors
                self._connection.execute("ROLLBACK")
            return [(item, None, error) for item in batch]
        return outcomes

    def _outcome(self, item: _Item) -> Outcome:
        try:
            return item, item.work(self._connection), None
        except Exception as error:
            # A full disk ends the whole transaction, not only the statement: then none of the batch was written.
            if isinstance(error, sqlite3.Error) and not self._connection.in_transaction:
                raise
            return item, None, error


def _settle(outcomes: list[Outcome]) -> None:
    for item, result, error in outcomes:
        if item.done.done():
            continue
        if error is None:
            item.done.set_result(result)
        else:
            item.done.set_exception(error)
