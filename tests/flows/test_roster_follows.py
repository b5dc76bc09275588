"""Nodes that another controller writes too: what is read late never replaces what is newer, nor is it told."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.held_store import HeldStore

from aiwm.infra.store.sqlite import open_sqlite
from aiwm.kit.clock import SystemClock
from aiwm.kit.wake import Wake
from aiwm.nodes.records import NODES, OBSERVATIONS, NodeObservation, NodeRecord
from aiwm.nodes.roster import Roster
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import NodeRole, NodeStatus


@pytest_asyncio.fixture
async def store() -> AsyncIterator[HeldStore]:
    opened = await open_sqlite(":memory:")
    yield HeldStore(opened)
    await opened.close()


async def a_roster(store: HeldStore, told: list[str] | None = None) -> Roster:
    roster = Roster(store, SystemClock(), Wake(), (told if told is not None else []).append)  # type: ignore[arg-type]
    await roster.load()
    return roster


async def with_a_node(store: HeldStore, told: list[str] | None = None) -> Roster:
    roster, now = await a_roster(store, told), SystemClock().now()
    fields: dict[str, Any] = {"owner": Owner(), "created_at": now, "updated_at": now, "unique_key": "one"}
    await roster.add(NodeRecord(id="node-1", name="one", role=[NodeRole.WORKER], **fields))
    return roster


async def stored(store: HeldStore) -> NodeObservation:
    return NodeObservation.model_validate(await store.get(OBSERVATIONS, "node-1"))  # type: ignore[operator]


def saw(**what: object) -> Any:
    return lambda seen: seen.model_copy(update=what)


@pytest.mark.parametrize("ids", [{"node-1"}, None])
async def test_a_read_that_was_overtaken_by_a_write_changes_nothing_back(
    store: HeldStore, ids: set[str] | None
) -> None:
    roster = await with_a_node(store)

    async def meanwhile() -> None:
        roster.heard("node-1", saw(ram_free=7))
        await roster.flush()

    store.hold(OBSERVATIONS, meanwhile)
    await roster.reload(ids)
    assert roster.seen("node-1").ram_free == 7


async def test_a_node_deleted_while_it_was_read_does_not_come_back(store: HeldStore) -> None:
    roster = await with_a_node(store)

    async def meanwhile() -> None:
        record = roster.record("node-1")
        assert record is not None
        gone = record.model_copy(update={"deleted_at": SystemClock().now(), "unique_key": None})
        roster.note(await roster.records.replace(gone))

    store.hold(NODES, meanwhile)
    await roster.reload({"node-1"})
    assert list(roster) == []


async def test_what_another_deleted_or_made_is_followed(store: HeldStore) -> None:
    one, two = await with_a_node(store), await a_roster(store)
    for ids in (None, frozenset({"node-1"})):
        await two.reload(ids)
        assert [record.id for record, _ in two] == ["node-1"]
    record = one.record("node-1")
    assert record is not None
    gone = record.model_copy(update={"deleted_at": SystemClock().now(), "unique_key": None})
    one.note(await one.records.replace(gone))
    await two.reload(None)
    assert list(two) == []


async def test_the_end_of_an_older_connection_is_not_told_once_another_has_the_newer(store: HeldStore) -> None:
    older = await with_a_node(store)
    await older.advance("node-1", saw(epoch=1, status=NodeStatus.ONLINE))
    newer = await a_roster(store)
    await newer.advance("node-1", saw(epoch=2))
    older.heard("node-1", saw(status=NodeStatus.OFFLINE))
    await older.tell("node-1", [("service.event", {"name": "node.offline"})])
    now = await stored(store)
    assert (now.epoch, now.status, now.outbox) == (2, NodeStatus.ONLINE, [])
    await older.reload({"node-1"})
    assert (older.seen("node-1").epoch, older.seen("node-1").status) == (2, NodeStatus.ONLINE)


async def test_each_write_is_told_and_reading_is_not(store: HeldStore) -> None:
    told: list[str] = []
    roster = await with_a_node(store, told)
    await roster.advance("node-1", saw(epoch=1))
    roster.heard("node-1", saw(ram_free=7))
    assert told == ["node-1"] * 2
    await roster.flush()
    assert told == ["node-1"] * 3
    await roster.flush()
    await roster.reload(None)
    assert told == ["node-1"] * 3
