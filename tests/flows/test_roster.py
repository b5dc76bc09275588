"""Nodes in memory and in the store: what is written when, and what outlives an outage."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from aiwm.infra.store.port import Record, Store
from aiwm.infra.store.sqlite import open_sqlite
from aiwm.kit.clock import SystemClock
from aiwm.kit.wake import Wake
from aiwm.nodes.records import OBSERVATIONS, NodeObservation, NodeRecord
from aiwm.nodes.roster import Roster
from aiwm.protocol.errors import Unavailable
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import NodeRole, NodeStatus


@dataclass
class Watched:
    """A store that counts its writes and can be away."""

    store: Store
    writes: list[str] = field(default_factory=list)
    away: bool = False
    meanwhile: Callable[[], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def replace(self, collection: str, record: Record, *, version: int) -> bool:
        if self.away:
            raise Unavailable("cannot reach the store")
        self.writes.append(str(record["id"]))
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return await self.store.replace(collection, record, version=version)


@pytest_asyncio.fixture
async def store() -> AsyncIterator[Watched]:
    opened = await open_sqlite(":memory:")
    yield Watched(opened)
    await opened.close()


async def a_roster(store: Watched) -> Roster:
    roster = Roster(store, SystemClock(), Wake(), lambda node_id: None)
    await roster.load()
    return roster


async def with_a_node(store: Watched, node_id: str = "node-1") -> Roster:
    roster, now = await a_roster(store), SystemClock().now()
    owner = Owner(org_id="org-1")
    fields: dict[str, Any] = {"owner": owner, "created_at": now, "updated_at": now, "unique_key": node_id}
    await roster.add(NodeRecord(id=node_id, name=node_id, role=[NodeRole.WORKER], **fields))
    return roster


async def stored(store: Watched, node_id: str = "node-1") -> NodeObservation:
    return NodeObservation.model_validate(await store.get(OBSERVATIONS, node_id))


def free(ram: int) -> Any:
    return lambda seen: seen.model_copy(update={"ram_free": ram})


async def test_telemetry_is_seen_at_once_and_written_once_however_much_there_is(store: Watched) -> None:
    roster = await with_a_node(store)
    for ram in range(100):
        roster.heard("node-1", free(ram))
    assert roster.seen("node-1").ram_free == 99
    assert store.writes == []
    await roster.flush()
    await roster.flush()
    assert store.writes == ["node-1"]
    assert (await stored(store)).ram_free == 99


async def test_what_changed_nothing_is_not_written(store: Watched) -> None:
    roster = await with_a_node(store)
    roster.heard("node-1", lambda seen: seen)
    await roster.flush()
    assert store.writes == []


async def test_a_fact_is_written_with_its_change_and_never_twice(store: Watched) -> None:
    roster = await with_a_node(store)
    roster.heard("node-1", lambda seen: seen.model_copy(update={"status": NodeStatus.ONLINE}))
    await roster.tell("node-1", [("service.event", {"name": "node.online"})])
    after = await stored(store)
    assert (after.status, [fact.data for fact in after.outbox]) == (NodeStatus.ONLINE, [{"name": "node.online"}])
    roster.heard("node-1", free(1))
    await roster.flush()
    assert len((await stored(store)).outbox) == 1


async def test_an_outage_of_the_store_keeps_changes_and_facts_until_it_is_back(store: Watched) -> None:
    roster = await with_a_node(store)
    store.away = True
    roster.heard("node-1", free(7))
    await roster.tell("node-1", [("service.event", {"number": 1})])
    await roster.tell("node-1", [("service.event", {"number": 2})])
    await roster.flush()
    assert roster.seen("node-1").ram_free == 7
    store.away = False
    await roster.flush()
    after = await stored(store)
    assert (after.ram_free, [fact.data["number"] for fact in after.outbox]) == (7, [1, 2])


async def test_what_an_older_connection_s_holder_still_has_does_not_overwrite_the_newer_one_s(store: Watched) -> None:
    older = await with_a_node(store)
    newer = await a_roster(store)
    await older.advance("node-1", lambda seen: seen.model_copy(update={"epoch": seen.epoch + 1}))
    after = await newer.advance("node-1", lambda seen: seen.model_copy(update={"epoch": seen.epoch + 1}))
    assert after.epoch == 2
    older.heard("node-1", free(1))
    newer.heard("node-1", free(2))
    await newer.flush()
    await older.flush()
    assert (await stored(store)).ram_free == 2


async def test_a_deleted_node_is_forgotten_and_its_late_telemetry_dropped(store: Watched) -> None:
    roster = await with_a_node(store)
    record = roster.record("node-1")
    assert record is not None
    roster.heard("node-1", free(1))
    roster.note(record.model_copy(update={"deleted_at": SystemClock().now(), "version": 2}))
    roster.heard("node-1", free(2))
    await roster.flush()
    assert (roster.record("node-1"), store.writes, list(roster)) == (None, [], [])


async def test_a_restart_finds_what_was_flushed(store: Watched) -> None:
    roster = await with_a_node(store)
    roster.heard("node-1", free(3))
    await roster.flush()
    again = await a_roster(store)
    assert [(record.id, seen.ram_free) for record, seen in again] == [("node-1", 3)]


async def test_a_reload_takes_what_another_process_wrote_but_not_over_what_is_unwritten_here(store: Watched) -> None:
    roster, other = await with_a_node(store), await a_roster(store)
    other.heard("node-1", free(5))
    await other.flush()
    await roster.reload({"node-1"})
    assert roster.seen("node-1").ram_free == 5
    roster.heard("node-1", free(6))
    await roster.reload({"node-1"})
    assert roster.seen("node-1").ram_free == 6


@pytest.mark.parametrize("count", [1, 120])
async def test_a_flush_costs_one_write_for_each_changed_node(store: Watched, count: int) -> None:
    roster = await with_a_node(store, "node-0")
    now = SystemClock().now()
    for number in range(1, count):
        fields: dict[str, Any] = {"owner": Owner(), "created_at": now, "updated_at": now, "unique_key": str(number)}
        await roster.add(NodeRecord(id=f"node-{number}", name=str(number), role=[], **fields))
    for number in range(count):
        roster.heard(f"node-{number}", free(1))
    await roster.flush()
    assert len(store.writes) == count


async def test_news_that_comes_while_a_connection_is_opened_is_not_undone(store: Watched) -> None:
    roster = await with_a_node(store)
    roster.heard("node-1", lambda seen: seen.model_copy(update={"status": NodeStatus.ONLINE}))
    await roster.flush()

    async def offline_meanwhile() -> None:
        roster.heard("node-1", lambda seen: seen.model_copy(update={"status": NodeStatus.OFFLINE}))

    store.meanwhile = offline_meanwhile
    await roster.advance("node-1", lambda seen: seen.model_copy(update={"epoch": seen.epoch + 1}))
    assert (roster.seen("node-1").epoch, roster.seen("node-1").status) == (1, NodeStatus.OFFLINE)
    await roster.flush()
    assert (await stored(store)).status is NodeStatus.OFFLINE


@pytest.mark.expects_errors
async def test_a_record_that_the_store_refuses_costs_no_other_node_anything(store: Watched) -> None:
    roster = await with_a_node(store, "node-1")
    now = SystemClock().now()
    fields: dict[str, Any] = {"owner": Owner(), "created_at": now, "updated_at": now, "unique_key": "two"}
    await roster.add(NodeRecord(id="node-2", name="two", role=[], **fields))
    roster.heard("node-1", free(2**70))
    roster.heard("node-2", free(2))
    await roster.flush()
    assert (await stored(store, "node-2")).ram_free == 2
    roster.heard("node-1", free(1))
    await roster.flush()
    assert (await stored(store, "node-1")).ram_free == 1
