"""A node's measurements on their way into memory and store, and back out to who asks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.http_support import SetClock
from tests.unit.nodes.node_builders import gpu, online
from tests.wire.played_node import a_node_record, played, token_of

from aiwm.infra.store.noticing import NoticingStore
from aiwm.infra.store.port import Query, Record, Store
from aiwm.infra.store.sqlite import open_sqlite
from aiwm.kit.clock import iso
from aiwm.nodes.history import History
from aiwm.nodes.history_records import HISTORY
from aiwm.protocol.resources.node_metrics import NodeMetrics
from aiwm.sdk import Client
from aiwm.testing.world import World, eventually, open_world

TEN = datetime(2026, 1, 1, 10, tzinfo=UTC)


@dataclass
class Counted(NoticingStore):
    """Counts what is asked of the store; `gate` holds inserts back while it is closed."""

    store: Store
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.store, lambda *_: None)
        self.gate.set()

    async def insert(self, collection: str, record: Record) -> None:
        self.asked.append("insert")
        await self.gate.wait()
        await super().insert(collection, record)

    async def get(self, collection: str, record_id: str) -> Record | None:
        self.asked.append("get")
        return await super().get(collection, record_id)

    async def replace(self, collection: str, record: Record, *, version: int) -> bool:
        self.asked.append("replace")
        return await super().replace(collection, record, version=version)


@pytest.fixture
async def store() -> AsyncIterator[Counted]:
    kept = Counted(await open_sqlite(":memory:"))
    yield kept
    await kept.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock(TEN)


@pytest.fixture
async def history(store: Store, clock: SetClock) -> History:
    made = History(store, clock)
    await made.prepare()
    return made


async def measure(history: History, clock: SetClock, seconds: int, *, cpu: float = 50, write: bool = True) -> None:
    """Metrics every ten seconds, written every minute."""
    for second in range(0, seconds, 10):
        history.note(online(gpu("0", utilization=cpu, temperature=60, memory_used=5), cpu_utilization=cpu))
        clock.forward(10)
        if write and second % 60 == 50:
            await history.write("node-1")


async def stored(store: Store) -> dict[str, list[float | None]]:
    """The minutes of the processor's use, by record."""
    found: Any = await store.find(HISTORY, Query(sort=("id",)))
    return {
        each["id"]: next((one["values"] for one in each["series"] if one["metric"] == "cpuUtilization"), [])
        for each in found
    }


def values(answer: NodeMetrics, metric: str = "cpuUtilization") -> list[float | None]:
    (found,) = [each.values for each in answer.series if each.metric == metric]
    return found


async def test_a_minute_of_a_node_is_one_replace_however_often_it_reports(
    history: History, store: Counted, clock: SetClock
) -> None:
    await measure(history, clock, 600)
    assert store.asked == ["get", "insert"] + 9 * ["replace"]
    await history.write("node-1")
    assert len(store.asked) == 11, "nothing new, nothing written"
    assert (await stored(store))["node-1.2026010110"] == [50.0] * 10 + [None] * 50


async def test_an_hour_s_last_minute_is_written_when_the_next_has_begun(
    history: History, store: Counted, clock: SetClock
) -> None:
    clock.forward(3540 + 30)
    await measure(history, clock, 60, write=False)
    await history.write("node-1")
    assert await stored(store) == {
        "node-1.2026010110": [None] * 59 + [50.0],
        "node-1.2026010111": [50.0] + [None] * 59,
    }


async def test_a_controller_that_starts_again_goes_on_in_the_same_record(
    history: History, store: Counted, clock: SetClock
) -> None:
    await measure(history, clock, 150)
    clock.forward(60)
    again = History(store, clock)
    await measure(again, clock, 120, cpu=70)
    assert (await stored(store))["node-1.2026010110"][:6] == [50.0, 50.0, None, 70.0, 70.0, 70.0]
    answer = await again.read("node-1", TEN, clock.now(), 60)
    assert values(answer) == [50, 50, None, 70, 70, 70]


async def test_one_that_starts_again_minutes_before_the_hour_is_full_keeps_what_is_stored_of_it(
    history: History, store: Counted, clock: SetClock
) -> None:
    await measure(history, clock, 3540)
    again = History(store, clock)
    await measure(again, clock, 90, cpu=70, write=False)
    await again.write("node-1")
    assert (await stored(store))["node-1.2026010110"] == [50.0] * 59 + [70.0]


async def test_a_node_that_moves_between_two_controllers_has_one_history(
    history: History, store: Counted, clock: SetClock
) -> None:
    other = History(store, clock)
    for turn in range(6):
        await measure((history, other)[turn % 2], clock, 60, cpu=10 * turn)
    assert (await stored(store))["node-1.2026010110"][:7] == [0, 10, 20, 30, 40, 50, None]


async def test_a_controller_that_no_longer_holds_a_node_reads_what_another_wrote(
    history: History, store: Counted, clock: SetClock
) -> None:
    await measure(history, clock, 600, cpu=10)
    other = History(store, clock)
    await measure(other, clock, 600, cpu=20)
    answer = await history.read("node-1", TEN, clock.now(), 60)
    assert values(answer) == [10] * 10 + [20] * 10


async def test_the_last_hour_is_read_from_memory_alone(history: History, store: Counted, clock: SetClock) -> None:
    await measure(history, clock, 3600, write=False)
    answer = await history.read("node-1", TEN, clock.now(), 10)
    assert (answer.times[0], answer.times[-1], len(answer.times)) == (TEN, TEN + timedelta(seconds=3590), 360)
    assert {(each.metric, each.device_id, each.unit) for each in answer.series} == {
        ("cpuUtilization", None, "percent"),
        ("utilization", "0", "percent"),
        ("memoryUsed", "0", "MiB"),
        ("temperature", "0", "celsius"),
    }
    assert values(answer) == [50] * 360
    assert store.asked == []


async def test_what_is_older_comes_from_the_store_at_a_minute_and_both_join_without_a_seam(
    history: History, store: Counted, clock: SetClock
) -> None:
    await measure(history, clock, 3600, cpu=20)
    await measure(history, clock, 5400, cpu=80)
    answer = await history.read("node-1", TEN, clock.now(), 60)
    assert values(answer) == [20] * 60 + [80] * 90
    answer = await history.read("node-1", TEN, TEN + timedelta(hours=2), 3600)
    assert values(answer) == [20, 80]


async def test_a_week_of_a_node_is_read_and_what_is_older_is_removed(
    history: History, store: Counted, clock: SetClock
) -> None:
    for _ in range(24 * 8):
        await measure(history, clock, 60)
        clock.forward(3540)
    await history.sweep()
    assert len(await stored(store)) == 7 * 24 + 1
    answer = await history.read("node-1", clock.now() - timedelta(days=7), clock.now(), 3600)
    assert values(answer) == [50] * 168


async def test_a_clock_that_jumps_is_survived_and_what_is_measured_then_is_kept(
    history: History, store: Counted, clock: SetClock
) -> None:
    await measure(history, clock, 120)
    clock.forward(-7200)
    await measure(history, clock, 120, cpu=70)
    clock.forward(7200)
    await measure(history, clock, 60, cpu=90)
    kept = await stored(store)
    assert kept["node-1.2026010108"][2:4] == [70, 70]
    assert kept["node-1.2026010110"][:2] == [50, 50]
    assert kept["node-1.2026010110"][4] == 90


async def test_a_node_that_was_deleted_leaves_nothing_also_when_it_was_just_being_written(
    history: History, store: Counted, clock: SetClock
) -> None:
    await measure(history, clock, 60, write=False)
    store.gate.clear()
    writing = asyncio.create_task(history.write("node-1"))
    await eventually(lambda: store.asked == ["get", "insert"])
    forgetting = asyncio.create_task(history.forget("node-1"))
    done, _ = await asyncio.wait({forgetting}, timeout=0.1)
    assert not done
    store.gate.set()
    await asyncio.gather(writing, forgetting)
    await history.write("node-1")
    assert await stored(store) == {}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def test_what_a_node_sends_is_read_over_rest_and_gone_with_the_node(world: World) -> None:
    node_id = await a_node_record(world)
    async with played(world, await token_of(world, node_id)) as node:
        await node.send("node.register", {"data": {"ramTotal": 100}})
        await node.next("register.ack")
        devices = [{"deviceId": "0", "utilization": 40, "temperature": 61.5, "memoryUsed": 7}]
        await node.send("telemetry.metrics", {"cpuUtilization": 12.5, "ramFree": 60, "gpuDevices": devices})
        path = f"/api/v1/nodes/{node_id}/metrics"

        async def measured() -> bool:
            return bool((await world.call("GET", path, expect=200))["series"])

        await eventually(measured)
        async with Client(world.url, token=world.http.headers["Authorization"].split()[1]) as client:
            found = await client.nodes.metrics(node_id, step=10)
            last = {
                (each.metric, each.device_id): [value for value in each.values if value is not None][-1]
                for each in found.series
            }
            assert last == {
                ("cpuUtilization", None): 12.5,
                ("ramFree", None): 60,
                ("utilization", "0"): 40,
                ("memoryUsed", "0"): 7,
                ("temperature", "0"): 61.5,
            }
        answer: Any = await world.call("GET", path, expect=200)
        assert set(answer) == {"nodeId", "from", "to", "step", "times", "series"}
        assert answer["step"] == 10
        await world.controller.history.write(node_id)
        assert await world.infra.store.count(HISTORY) == 1
    await world.call("DELETE", f"/api/v1/nodes/{node_id}", expect=204)
    assert await world.infra.store.count(HISTORY) == 0


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("step=9", "VALIDATION_FAILED"),
        ("step=x", "VALIDATION_FAILED"),
        ("from=yesterday", "VALIDATION_FAILED"),
        ("from=2020-01-01T00:00:00Z", "METRICS_RANGE_INVALID"),
        ("to=2120-01-01T00:00:00Z", "METRICS_RANGE_INVALID"),
    ],
)
async def test_a_query_that_cannot_be_answered_is_refused_by_code(world: World, query: str, code: str) -> None:
    node_id = await a_node_record(world)
    answer = await world.call("GET", f"/api/v1/nodes/{node_id}/metrics?{query}", expect=422)
    assert answer["code"] == code


async def test_too_many_points_are_refused_with_what_to_ask_for(world: World) -> None:
    node_id = await a_node_record(world)
    begin = iso(world.infra.clock.now() - timedelta(days=1))
    answer = await world.call("GET", f"/api/v1/nodes/{node_id}/metrics?from={begin}&step=10", expect=422)
    assert answer["code"] == "METRICS_TOO_MANY"
    assert "ask for 58 seconds or more" in str(answer["detail"])
    whole: Any = await world.call("GET", f"/api/v1/nodes/{node_id}/metrics?from={begin}", expect=200)
    assert (whole["step"], whole["series"]) == (60, [])
