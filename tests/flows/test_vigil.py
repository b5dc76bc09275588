"""Who is called gone and when, and what the controller says when most of its nodes vanish."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest_asyncio
from tests.wire.played_node import PlayedNode, a_node_record, played, token_of

from aiwm.nodes.vigil import JUDGE_AFTER, Vigil
from aiwm.testing.world import World, eventually, open_world


@dataclass
class ShiftedClock:
    """The real clock, moved on by hand."""

    real: Any
    ahead: timedelta = timedelta()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def now(self) -> datetime:
        return self.real.now() + self.ahead  # type: ignore[no-any-return]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def status(world: World, node_id: str) -> Any:
    return (await world.call("GET", f"/api/v1/nodes/{node_id}", expect=200))["status"]


def a_vigil(world: World) -> tuple[Vigil, ShiftedClock]:
    """As another controller that starts now would have it: no node is connected to it."""
    controller, clock = world.controller, ShiftedClock(world.infra.clock)
    presence = type(controller.presence)()
    return Vigil(world.infra.store, controller.nodes, presence, clock, controller.relay.wake, lambda: True), clock


async def registered(node: PlayedNode) -> None:
    await node.send("node.register", {"data": {"replicas": []}})
    await node.next("register.ack")


async def test_a_node_is_not_judged_before_it_had_time_to_return(world: World) -> None:
    node_id = await a_node_record(world)
    async with played(world, await token_of(world, node_id)) as node:
        await registered(node)
        vigil, clock = a_vigil(world)
        await vigil.look()
        clock.ahead = JUDGE_AFTER - timedelta(seconds=5)
        await vigil.look()
        assert await status(world, node_id) == "online"
        clock.ahead = JUDGE_AFTER + timedelta(seconds=1)
        await vigil.look()
        assert await status(world, node_id) == "offline"


async def test_when_most_nodes_vanish_the_controller_says_that_it_is_isolated_and_when_it_is_over(
    world: World,
) -> None:
    vigil, _ = a_vigil(world)
    await vigil.prepare()
    ids = [await a_node_record(world, f"n{number}") for number in range(4)]
    tokens = [await token_of(world, node_id) for node_id in ids]
    async with AsyncExitStack() as stack:
        for token in tokens:
            await registered(await stack.enter_async_context(played(world, token)))
        assert not vigil.isolated()
    await eventually(vigil.isolated)
    await eventually(lambda: kept_missing(world, vigil, ids))
    again, _ = a_vigil(world)
    await again.prepare()
    assert again.isolated()
    async with AsyncExitStack() as stack:
        for token in tokens[:2]:
            await registered(await stack.enter_async_context(played(world, token)))
        assert not vigil.isolated()
        await vigil.look()
        assert (await kept(world)).get("population") is None


async def kept(world: World) -> dict[str, Any]:
    return await world.infra.store.get("vigils", "fleet") or {}


async def kept_missing(world: World, vigil: Vigil, ids: list[str]) -> bool:
    await vigil.look()
    now = await kept(world)
    return (now.get("population"), now.get("missing")) == (4, sorted(ids))
