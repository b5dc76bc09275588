"""What the SQLite store costs beside the usual way: one connection in one thread, every call a hop and a commit.

    python bench/store.py

Both keep the same promise (write-ahead log, synchronous FULL) and hold the same documents. Ours also encodes and checks
them, counts versions and keeps a unique index; the peer, which is how aiosqlite works, is handed finished JSON. Rounds
take turns; the numbers are medians, the ratio is of CPU time.
"""

import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiwm.infra.store.port import Index, Record
from aiwm.infra.store.sqlite import SqliteStore, open_sqlite
from aiwm.kit.clock import SystemClock

ROUNDS = 5
TOGETHER = 50
WRITES = 1000
SERIAL = 250
Sample = tuple[float, float]


def document(number: int) -> Record:
    """A node as it is stored, more or less."""
    gpu = {"deviceId": "0", "model": "A100", "temperature": 72, "memoryUsed": 8192, "memoryTotal": 16384}
    return {
        "id": f"node-{number:08}",
        "uniqueKey": f"default/gpu-node-{number}",
        "status": "online",
        "gpuDevices": [gpu],
        "lastHeartbeat": SystemClock().now(),
        "labels": {"zone": "a"},
        "number": number,
    }


class Peer:
    """One connection, one thread, one commit each."""

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "CREATE TABLE nodes (id TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, doc TEXT NOT NULL)",
        ):
            self._connection.execute(statement)

    async def insert(self, number: int) -> None:
        text = json.dumps(document(number), default=str)
        await self._run("INSERT INTO nodes VALUES (?, 1, ?)", (f"node-{number:08}", text))

    async def get(self, number: int) -> None:
        rows = await self._run("SELECT doc FROM nodes WHERE id = ?", (f"node-{number:08}",))
        assert json.loads(rows[0][0])["number"] == number

    async def _run(self, statement: str, values: tuple[object, ...]) -> list[tuple[str]]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: self._connection.execute(statement, values).fetchall())

    def close(self) -> None:
        self._thread.shutdown()
        self._connection.close()


class Ours:
    """The store."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def insert(self, number: int) -> None:
        await self._store.insert("nodes", document(number))

    async def get(self, number: int) -> None:
        found = await self._store.get("nodes", f"node-{number:08}")
        assert found is not None
        assert found["number"] == number


async def measured(count: int, work: Coroutine[object, object, None]) -> Sample:
    """Operations a second, and CPU microseconds each."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work
    return count / (time.perf_counter() - wall), (time.process_time() - cpu) / count * 1e6


async def together(call: Callable[[int], Awaitable[None]], start: int) -> None:
    """`WRITES` calls, `TOGETHER` at a time."""
    for first in range(start, start + WRITES, TOGETHER):
        await asyncio.gather(*(call(number) for number in range(first, first + TOGETHER)))


async def in_turn(call: Callable[[int], Awaitable[None]], start: int, count: int) -> None:
    """`count` calls, one after the other."""
    for number in range(start, start + count):
        await call(number)


async def main() -> None:
    """Prints the table."""
    samples: dict[tuple[str, str], list[Sample]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = await open_sqlite(Path(folder) / "ours.db")
        await store.ensure_index(Index("nodes", ("uniqueKey",), unique=True))
        peer = Peer(Path(folder) / "peer.db")
        subjects: list[tuple[str, Ours | Peer]] = [("ours", Ours(store)), ("peer", peer)]
        for turn in range(ROUNDS):
            start = turn * 2 * WRITES
            for name, subject in subjects if turn % 2 else subjects[::-1]:
                for row, count, work in (
                    (f"insert, {TOGETHER} at once", WRITES, together(subject.insert, start)),
                    ("insert, one by one", SERIAL, in_turn(subject.insert, start + WRITES, SERIAL)),
                    ("get by id", WRITES, in_turn(subject.get, 0, WRITES)),
                ):
                    samples.setdefault((row, name), []).append(await measured(count, work))
        peer.close()
        await store.close()
    print_table(samples)


def print_table(samples: dict[tuple[str, str], list[Sample]]) -> None:
    """One row for each kind of operation."""
    print("| operation | ours/s | peer/s | ours CPU µs | peer CPU µs | times less CPU | times faster |")
    print("|---|---|---|---|---|---|---|")
    for row in dict.fromkeys(row for row, _ in samples):
        ours, peer = (
            [statistics.median(sample[part] for sample in samples[row, name]) for part in (0, 1)]
            for name in ("ours", "peer")
        )
        ratios = f"{peer[1] / ours[1]:.1f} | {ours[0] / peer[0]:.1f}"
        print(f"| {row} | {ours[0]:,.0f} | {peer[0]:,.0f} | {ours[1]:.1f} | {peer[1]:.1f} | {ratios} |")


if __name__ == "__main__":
    asyncio.run(main())
