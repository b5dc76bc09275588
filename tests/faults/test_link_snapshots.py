"""What a node says it runs, cut, late or empty: nothing is torn down, and what is truly gone is started again."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.faults.link_harness import deployment, deployment_is
from tests.faults.raw_node import event, raw_node
from tests.wire.played_node import PlayedNode, a_node_record, played, token_of

from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually, open_world

FACTS = {"engines": [{"name": "triton"}]}


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def two_running(world: World, node: PlayedNode) -> list[dict[str, Any]]:
    """Two deployments that the node runs, as its inventory says them."""
    await node.send("node.register", {"data": {**FACTS, "replicas": []}})
    await node.next("register.ack")
    model_id, told = await ready_model(world), []
    for name in ("one", "two"):
        made = await world.call("POST", "/api/v1/deployments", json={"name": name, "modelId": model_id}, expect=201)
        deployment_id = made["deploymentId"]
        order = await node.next("command.deploy", lambda body: body["data"]["deploymentId"] == deployment_id)  # noqa: B023
        origin = {"originalMessageId": order["messageId"]}
        await node.send("command.ack", {"data": origin})
        await node.send("command.result", {"data": {**origin, "status": "success", "result": {}}})
        about = {key: order["data"][key] for key in ("deploymentId", "replicaId", "generation")}
        await node.send("deployment.status", {"data": {**about, "status": "running", "state": "running"}})
        await eventually(lambda: deployment_is(world, str(deployment_id), "running"))  # noqa: B023
        told.append({**about, "state": "running", "restarts": 0})
    return told


async def as_before(world: World, replicas: list[dict[str, Any]]) -> None:
    """Both deployments have the very replicas they had, and no other."""
    for replica in replicas:
        shown = await deployment(world, replica["deploymentId"])
        assert [each["replicaId"] for each in shown["replicaStatus"]] == [replica["replicaId"]]
        assert shown["replicaStatus"][0]["restarts"] == 0


async def commands_after(node: PlayedNode, register: dict[str, Any]) -> list[str]:
    """What the controller asks for once the node has said this, besides its health."""
    before = len(node.bodies("register.ack"))
    await node.send("node.register", register)
    await eventually(lambda: len(node.bodies("register.ack")) > before)
    await eventually(lambda: len(node.bodies("command.healthCheck")) > before)
    return [name for name, _ in node.received if name in ("command.stop", "command.deploy")]


async def test_a_snapshot_cut_at_any_byte_tears_nothing_down(world: World) -> None:
    token = await token_of(world, await a_node_record(world))
    async with played(world, token) as node:
        replicas = await two_running(world, node)
    whole = event("node.register", {"data": {**FACTS, "replicas": replicas}})
    async with raw_node(world, token) as raw:
        for length in range(len("42/ws/node,"), len(whole)):
            await raw.text(whole[:length])
        assert await raw.lasts()
        await as_before(world, replicas)
    await as_before(world, replicas)
    async with played(world, token) as node:
        assert await commands_after(node, {"data": {**FACTS, "replicas": replicas}}) == []
        for replica in replicas:
            await eventually(lambda: deployment_is(world, replica["deploymentId"], "running"))  # noqa: B023
    await as_before(world, replicas)


@pytest.mark.parametrize("empty", [{}, {"replicas": None}, {"hostname": "gpu-1"}], ids=["nothing", "null", "facts"])
async def test_a_registration_that_names_no_inventory_says_nothing_about_it(
    world: World, empty: dict[str, Any]
) -> None:
    token = await token_of(world, await a_node_record(world))
    async with played(world, token) as node:
        replicas = await two_running(world, node)
    async with played(world, token) as node:
        assert await commands_after(node, {"data": {**FACTS, **empty}}) == []
        await as_before(world, replicas)
        for replica in replicas:
            await eventually(lambda: deployment_is(world, replica["deploymentId"], "running"))  # noqa: B023
        # Said in full afterwards, they were never away.
        assert await commands_after(node, {"data": {**FACTS, "replicas": replicas}}) == []
    await as_before(world, replicas)


async def test_an_empty_inventory_has_what_is_gone_started_again_and_ends_nothing(world: World) -> None:
    token = await token_of(world, await a_node_record(world))
    async with played(world, token) as node:
        replicas = await two_running(world, node)
    async with played(world, token) as node:
        await node.send("node.register", {"data": {**FACTS, "replicas": []}})
        for replica in replicas:
            same = replica["replicaId"]
            await node.next("command.deploy", lambda body: body["data"]["replicaId"] == same)  # noqa: B023
        assert node.bodies("command.stop") == []
        await as_before(world, replicas)


async def test_a_snapshot_without_one_replica_has_only_that_one_started_again(world: World) -> None:
    token = await token_of(world, await a_node_record(world))
    async with played(world, token) as node:
        kept, gone = await two_running(world, node)
    async with played(world, token) as node:
        await node.send("node.register", {"data": {**FACTS, "replicas": [kept]}})
        order = await node.next("command.deploy")
        assert order["data"]["replicaId"] == gone["replicaId"]
        await eventually(lambda: deployment_is(world, kept["deploymentId"], "running"))
        assert len(node.bodies("command.deploy")) == 1
        assert node.bodies("command.stop") == []


async def test_a_snapshot_that_comes_late_finds_everything_as_it_was(world: World) -> None:
    node_id = await a_node_record(world)
    token = await token_of(world, node_id)
    async with played(world, token) as node:
        replicas = await two_running(world, node)
    async with played(world, token) as node:
        await node.next("connection.ack")
        await node.send("telemetry.heartbeat", {"data": {"uptimeSeconds": 5}})
        await node.send("node.unheard", {"data": {}})
        await node.next("error")
        # Has everything planned anew.
        await world.call("PATCH", f"/api/v1/nodes/{node_id}", json={"labels": {"rack": "4"}}, expect=200)
        await as_before(world, replicas)
        assert node.bodies("command.deploy") == node.bodies("command.stop") == []
        assert await commands_after(node, {"data": {**FACTS, "replicas": replicas}}) == []
    await as_before(world, replicas)
