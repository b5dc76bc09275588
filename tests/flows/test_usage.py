"""Counting inferences: what was counted is written once, whatever the store does in between."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from aiwm.deployments.records import USAGE, Usage
from aiwm.gateway.usage import UsageMeter
from aiwm.infra.store.port import Record, Store
from aiwm.infra.store.records import Records
from aiwm.infra.store.sqlite import open_sqlite
from aiwm.kit.clock import SystemClock
from aiwm.protocol.errors import Unavailable


class Unsteady:
    """A store whose next writes fail: before they are done (`lost`), or after, unseen (`unheard`)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.lost = 0
        self.unheard = 0
        self.gate: asyncio.Event | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def replace(self, collection: str, record: Record, *, version: int) -> bool:
        if self.gate is not None:
            await self.gate.wait()
        if self.lost:
            self.lost -= 1
            raise Unavailable("cannot write: the store is away")
        done = await self._store.replace(collection, record, version=version)
        if self.unheard:
            self.unheard -= 1
            raise Unavailable("cannot tell whether it was written: the store is away")
        return done


@pytest_asyncio.fixture
async def store() -> AsyncIterator[Unsteady]:
    opened = await open_sqlite(":memory:")
    yield Unsteady(opened)
    await opened.close()


def meter_of(store: Unsteady) -> UsageMeter:
    return UsageMeter(store, SystemClock())  # type: ignore[arg-type]


async def counted(store: Unsteady, deployment_id: str = "deploy-1") -> tuple[int, float]:
    usage = await Records(store, USAGE, Usage).get(deployment_id)  # type: ignore[arg-type]
    return (usage.total_inferences, usage.latency_sum_ms) if usage else (0, 0.0)


async def test_what_was_counted_is_added_up(store: Unsteady) -> None:
    meter = meter_of(store)
    for latency in (10.0, 20.0):
        meter.count("deploy-1", latency)
    meter.count("deploy-2", 1.0)
    await meter.flush()
    meter.count("deploy-1", 30.0)
    await meter.flush()
    await meter.flush()
    assert await counted(store) == (3, 60.0)
    assert await counted(store, "deploy-2") == (1, 1.0)


async def test_a_restarted_meter_adds_to_what_is_there(store: Unsteady) -> None:
    for _ in range(2):
        meter = meter_of(store)
        meter.count("deploy-1", 5.0)
        await meter.flush()
    assert await counted(store) == (2, 10.0)


@pytest.mark.parametrize("way", ["lost", "unheard"])
async def test_a_write_that_failed_is_made_up_for_once(store: Unsteady, way: str) -> None:
    meter = meter_of(store)
    meter.count("deploy-1", 10.0)
    setattr(store, way, 1)
    with pytest.raises(Unavailable):
        await meter.flush()
    meter.count("deploy-1", 20.0)
    for _ in range(3):
        await meter.flush()
    assert await counted(store) == (2, 30.0)


async def test_a_store_that_stays_away_for_long_gets_everything_once_in_the_end(store: Unsteady) -> None:
    meter = meter_of(store)
    for number in range(10):
        meter.count("deploy-1", 1.0)
        store.unheard, store.lost = number % 2, (number + 1) % 2
        with contextlib.suppress(Unavailable):
            await meter.flush()
    store.unheard = store.lost = 0
    await meter.flush()
    await meter.flush()
    assert await counted(store) == (10, 10.0)


async def test_a_last_flush_beside_a_regular_one_adds_nothing_twice(store: Unsteady) -> None:
    """At its end a controller flushes once more, whatever its loop is doing."""
    meter = meter_of(store)
    meter.count("deploy-1", 1.0)
    store.gate = asyncio.Event()
    both = asyncio.gather(meter.flush(), meter.flush())
    await asyncio.sleep(0)
    meter.count("deploy-1", 2.0)
    store.gate.set()
    await both
    await meter.flush()
    assert await counted(store) == (2, 3.0)
