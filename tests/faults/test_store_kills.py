"""What a store acknowledged outlives `kill -9` of the writer, and of the database server, at any moment."""

import asyncio
import signal
from pathlib import Path

import pytest
from tests import servers
from tests.faults.store_nursery import check_kept, moments, nursery
from tests.faults.store_writer import UNAVAILABLE

from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Query, Store
from aiwm.protocol.errors import Unavailable

SQLITE_ROUNDS = 200
MONGODB_ROUNDS = 30
SERVER_ROUNDS = 2
FLUSH_SECONDS = 2.0
LEAST_WRITES_PER_SECOND = 50


async def test_sqlite_keeps_all_it_acknowledged_through_200_kills(tmp_path: Path) -> None:
    """The file is held open by a second process here, as it is in the product, except in every tenth round."""
    url = f"sqlite://{tmp_path}/store.db"
    store = await open_store(url)
    everything: list[str] = []
    lived = 0.0
    with nursery() as writers:
        for number, seconds in enumerate(moments(SQLITE_ROUNDS, 0.15)):
            if number % 10 == 0:
                await store.close()
            lines = writers.round(url, f"r{number}", seconds)
            if number % 10 == 0:
                store = await open_store(url)
            await check_kept(store, lines)
            everything += lines
            lived += seconds
    await check_kept(store, everything)
    assert all(found["value"] == found["twin"] == found["version"] for found in await store.find("kept", Query()))
    await store.close()
    assert len(everything) / lived > LEAST_WRITES_PER_SECOND


async def test_mongodb_keeps_all_it_acknowledged_to_killed_writers(tmp_path: Path) -> None:
    everything: list[str] = []
    with servers.mongodb(tmp_path) as url, nursery() as writers:
        store = await open_store(url)
        for number, seconds in enumerate(moments(MONGODB_ROUNDS, 0.3)):
            lines = writers.round(url, f"r{number}", seconds)
            await check_kept(store, lines)
            everything += lines
        await store.close()
    assert everything


async def answered(store: Store, name: str) -> None:
    """Waits until the store takes a write again."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await store.insert("kept", {"id": name, "value": 1, "twin": 1})
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_an_open_store_works_again_when_a_killed_mongodb_is_back(tmp_path: Path) -> None:
    """The wire server flushes once a second and so loses a last second of its own; what it had flushed is there."""
    port = servers.free_port()
    command = servers.mongodb_command(port, tmp_path / "mongodb.data")
    url = f"mongodb://127.0.0.1:{port}/kills"
    log = tmp_path / "mongodb.log"
    server = servers.start(command, port, log)
    store = await open_store(url)
    flushed: list[str] = []
    try:
        with nursery() as writers:
            for number in range(SERVER_ROUNDS):
                await answered(store, f"flushed{number}")
                flushed.append(f"inserted flushed{number}")
                await asyncio.sleep(FLUSH_SECONDS)
                writers.begin(url, f"s{number}")
                server.send_signal(signal.SIGKILL)
                server.wait()
                with pytest.raises(Unavailable, match="does not answer"):
                    await store.get("kept", "x")
                assert (await asyncio.to_thread(writers.said))[1] == UNAVAILABLE
                server = servers.start(command, port, log)
                await answered(store, f"again{number}")
                await check_kept(store, flushed)
    finally:
        await store.close()
        servers.stop(server)
