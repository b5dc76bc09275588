"""The link between a node's daemon and its controller, cut in every way a network has: no engine notices any of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest_asyncio
from tests.daemon_support import running
from tests.faults.link_harness import Linked, a_running_deployment, deployment, linked, seen, tiny_triton
from tests.link_proxy import LinkProxy, link_proxy

from aiwm.daemon import keeper
from aiwm.daemon.daemon import Daemon
from aiwm.kit.clock import SystemClock
from aiwm.testing.world import World, eventually, open_world

NOTICED_SECONDS = 10.0
SHORT_CUT_SECONDS = 3.0
FLAPS = 20
EVERY_NTH_BYTE = 53


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def link(world: World) -> AsyncIterator[Linked]:
    async with linked(world) as up:
        yield up


async def test_a_half_open_link_is_noticed_on_both_ends_and_replaced(link: Linked) -> None:
    epoch, dialled, clock = await link.epoch(), len(link.proxy.pipes), asyncio.get_running_loop().time
    began = clock()
    link.proxy.freeze()
    offline = await link.becomes("offline", within=NOTICED_SECONDS)
    await eventually(lambda: len(link.proxy.pipes) > dialled, within=NOTICED_SECONDS + 5)
    redialled = clock() - began
    await link.back(epoch)
    print(f"half-open: offline after {offline:.1f} s, the daemon dialled anew after {redialled:.1f} s")
    # A ping every 3 s and 3 s of waiting for it, and then the first pause, of 2 s at most.
    assert redialled < NOTICED_SECONDS
    await link.untouched()


async def test_a_link_that_is_silent_for_less_than_a_ping_takes_is_kept(link: Linked) -> None:
    epoch, (pipe,) = await link.epoch(), link.proxy.open_pipes
    pipe.freeze()
    await asyncio.sleep(SHORT_CUT_SECONDS)
    pipe.release()
    before = pipe.up
    await eventually(lambda: pipe.up > before + 1, within=NOTICED_SECONDS)
    assert (await link.epoch(), link.proxy.open_pipes) == (epoch, [pipe])
    await link.untouched()


async def test_after_a_short_cut_the_node_is_back_within_seconds(link: Linked) -> None:
    epoch = await link.epoch()
    link.proxy.refusing = True
    link.proxy.cut()
    await link.becomes("offline", within=1)
    await eventually(lambda: link.proxy.refused >= 1, within=5)
    link.proxy.refusing = False
    back = await link.back(epoch, within=10)
    print(f"short cut: back {back:.1f} s after it was healed")
    await link.untouched()


async def test_after_a_long_cut_the_node_is_back_with_the_same_engine(link: Linked) -> None:
    epoch = await link.epoch()
    link.proxy.refusing = True
    link.proxy.cut()
    await eventually(lambda: link.proxy.refused >= 3, within=20)
    assert link.node.engines() == [link.engine]
    (replica,) = (await deployment(link.world, link.deployment_id))["replicaStatus"]
    assert replica["state"] == "lost"
    link.proxy.refusing = False
    back = await link.back(epoch, within=20)
    print(f"long cut: back {back:.1f} s after it was healed")
    await link.untouched()


async def test_a_link_that_flaps_costs_nothing_but_connections(link: Linked) -> None:
    for _ in range(FLAPS):
        epoch = await link.epoch()
        link.proxy.cut()
        await link.back(epoch, within=10)
    assert await link.epoch() == FLAPS + 1
    assert len(link.proxy.open_pipes) == 1
    await link.untouched()


async def test_a_link_on_which_bytes_dribble_carries_everything_in_the_end(link: Linked) -> None:
    epoch = await link.epoch()
    link.proxy.chunk, link.proxy.pause = 24, 0.01
    link.proxy.cut()
    back = await link.back(epoch)
    print(f"2.4 kB/s: registered {back:.1f} s after the cut")
    await link.untouched()
    stop = f"/api/v1/deployments/{link.deployment_id}/stop"
    await link.world.call("POST", stop, json={"timeoutSeconds": 5}, expect=202)
    await eventually(lambda: link.node.engines() == [], within=30)
    assert len(link.proxy.open_pipes) == 1


async def test_a_connection_that_is_never_answered_is_given_up_and_another_tried(link: Linked) -> None:
    epoch, dialled = await link.epoch(), len(link.proxy.pipes)
    link.proxy.deaf = True
    link.proxy.cut()
    await eventually(lambda: len(link.proxy.pipes) > dialled, within=5)
    link.proxy.deaf = False
    waited = await link.back(epoch, within=60)
    print(f"accepted and never answered: back after {waited:.1f} s")
    await link.untouched()


class Hasty(SystemClock):
    """Waits a hundredth of what it is asked to."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 100)


async def test_a_connection_cut_at_every_few_bytes_of_its_registration_ends_nothing(world: World) -> None:
    made = await world.call("POST", "/api/v1/nodes", json={"name": "gpu-1"}, expect=201)
    token = await world.call("POST", f"/api/v1/nodes/{made['nodeId']}/token", json={}, expect=200)
    async with link_proxy(world.url) as proxy:
        settings = replace(
            world.infra.settings,
            data_dir=world.folder / "node",
            controller_url=proxy.url,
            node_token=str(token["token"]),
            triton_server=str(tiny_triton(world.folder)),
        )
        async with running(Daemon(settings, clock=Hasty())):
            deployment_id = await a_running_deployment(world)
            engine = _engine(world.folder)
            whole = await _registration(world, proxy, str(made["nodeId"]))
            for length in range(1, whole, EVERY_NTH_BYTE):
                proxy.cut_after, dialled = length, len(proxy.pipes)
                proxy.cut()
                await eventually(lambda dialled=dialled: _cut_once(proxy, dialled))  # type: ignore[misc]
            proxy.cut_after, epoch = None, (await seen(world, str(made["nodeId"])))["epoch"]
            proxy.cut()
            await eventually(lambda: _online_after(world, str(made["nodeId"]), epoch))
            assert _engine(world.folder) == engine
            (replica,) = (await deployment(world, deployment_id))["replicaStatus"]
            assert (replica["state"], replica["restarts"]) == ("running", 0)
            await world.call("POST", f"/api/v1/deployments/{deployment_id}/stop", json={"force": True}, expect=202)
            await eventually(lambda: not list(world.folder.glob("node/node/replicas/*")))


async def _registration(world: World, proxy: LinkProxy, node_id: str) -> int:
    """How many bytes a node sends from dialling until it is registered."""
    epoch, dialled = (await seen(world, node_id))["epoch"], len(proxy.pipes)
    proxy.cut()
    await eventually(lambda: _online_after(world, node_id, epoch))
    return proxy.pipes[dialled].up


def _cut_once(proxy: LinkProxy, dialled: int) -> bool:
    """Whether a connection dialled since has been cut where it should be."""
    return any(pipe.closed and pipe.up == proxy.cut_after for pipe in proxy.pipes[dialled:])


async def _online_after(world: World, node_id: str, epoch: int) -> bool:
    node = await seen(world, node_id)
    return bool(node["status"] == "online" and node["epoch"] > epoch)


def _engine(folder: Path) -> tuple[int, int]:
    (state,) = [json.loads(path.read_text()) for path in folder.glob(f"node/node/replicas/*/{keeper.STATE}")]
    assert keeper.start_time(state["pid"]) == state["startTime"]
    return state["pid"], state["startTime"]
