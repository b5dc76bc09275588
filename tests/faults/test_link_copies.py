"""Two daemons with one identity: the newest keeps the node, the other is told so, and neither ends an engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest_asyncio
from tests.faults.link_harness import Linked, Node, linked, seen
from tests.link_proxy import link_proxy

from aiwm.infra.queue.port import Job
from aiwm.testing.world import World, eventually, open_world

TOLD = "another daemon uses this node's identity"


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def cloned(world: World, node_id: str) -> bool:
    return "IdentityCloned" in [each["type"] for each in (await seen(world, node_id))["conditions"]]


@asynccontextmanager
async def a_copy(link: Linked, url: str) -> AsyncIterator[Node]:
    """Another machine that was given the same token: an image that was cloned, or a folder that was copied."""
    node = link.node
    copy = Node(node.node_id, node.token, link.world.folder / "copy", url, node.engine)
    await copy.start()
    try:
        yield copy
    finally:
        await copy.end()


async def test_of_two_daemons_with_one_identity_the_newest_stays_and_neither_ends_an_engine(world: World) -> None:
    alerts: list[object] = []

    async def hear(job: Job) -> None:
        alerts.append(job.data["data"].get("name"))  # type: ignore[index]

    world.controller.tasks.spawn("noti queue", world.infra.queues.consume("noti", hear))
    async with linked(world) as link:
        epoch = await link.epoch()
        async with link_proxy(world.url) as other, a_copy(link, other.url) as copy:
            await link.back(epoch)
            # The first finds itself replaced, dials in again, and is refused from then on.
            await eventually(lambda: TOLD in link.node.log(), within=15)
            view = await seen(world, link.node.node_id)
            assert (view["status"], view["epoch"]) == ("online", epoch + 1)
            assert (len(other.open_pipes), link.proxy.open_pipes) == (1, [])
            assert TOLD not in copy.log()
            assert link.node.engines() == [link.engine]
            await eventually(lambda: cloned(world, link.node.node_id))
            await eventually(lambda: "node.cloned" in alerts)
            # No flapping: the copy's connection is the one it opened, and the first stays away for a minute.
            assert len(other.pipes) == 1
            assert link.node.log().count("the link to") == 1
            assert "next attempt in" in link.node.log().split(TOLD)[1].splitlines()[0]
            assert await link.epoch() == epoch + 1


async def test_a_daemon_that_was_replaced_has_its_place_again_once_the_other_is_gone(world: World) -> None:
    async with linked(world) as link:
        epoch = await link.epoch()
        async with link_proxy(world.url) as other, a_copy(link, other.url) as copy:
            await link.back(epoch)
            await eventually(lambda: TOLD in link.node.log(), within=15)
            await copy.end()
            await link.becomes("offline", within=10)
        # Started again, which an operator would do, it does not wait for its minute to pass.
        await link.node.kill()
        await link.node.start()
        await link.back(epoch + 1)
        assert link.node.engines() == [link.engine]
        await link.untouched()
