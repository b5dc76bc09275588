"""Old and new connections of one node, and what arrives late, twice or out of order: only the newest one counts.

Nodes are played by hand where a daemon would never send what is tested.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest_asyncio
from tests.faults.link_harness import deployment, deployment_is, linked, seen
from tests.link_proxy import link_proxy
from tests.wire.played_node import PlayedNode, a_node_record, played, token_of

from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually, open_world

FACTS = {"engines": [{"name": "triton"}]}
MANY = 100
ONE_ADDRESS = "192.168.1.10"


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def test_an_old_socket_that_closes_after_a_new_one_opened_takes_nothing_along(world: World) -> None:
    async with linked(world) as link:
        (old,) = link.proxy.open_pipes
        epoch = await link.epoch()
        old.ends.clear()
        await link.node.kill()
        await link.node.start()
        await link.back(epoch)
        assert not old.closed
        old.release()
        await eventually(lambda: old.closed)
        await still_served(world, link.node.node_id)
        assert await link.epoch() == epoch + 1
        await link.untouched()
        events = (await deployment(world, link.deployment_id))["events"]
        assert "replica.lost" not in [each["event"] for each in events]


async def still_served(world: World, node_id: str) -> None:
    """The controller answers, and so has done what arrived before; the node is online."""
    assert (await seen(world, node_id))["status"] == "online"


async def test_an_old_connection_s_delayed_message_changes_nothing_once_a_new_one_registered(world: World) -> None:
    token = await token_of(world, await a_node_record(world))
    async with link_proxy(world.url) as proxy, AsyncExitStack() as stack:
        old = await stack.enter_async_context(played(world, token, url=proxy.url))
        order = await runs(world, old)
        (pipe,) = proxy.open_pipes
        pipe.hold_up()
        before = pipe.up
        await old.send("deployment.status", {"data": {**about(order), "status": "failed", "state": "failed"}})
        await old.send("node.register", {"data": {**FACTS, "replicas": []}})
        async with played(world, token) as new:
            await new.send("node.register", {"data": {**FACTS, "replicas": [running(order)]}})
            await new.next("register.ack")
            pipe.release()
            await eventually(lambda: pipe.up > before + 100)
            await new.send("node.register", {"data": {**FACTS, "replicas": [running(order)]}})
            await eventually(lambda: len(new.bodies("register.ack")) == 2)
            assert await deployment_is(world, order["deploymentId"], "running")
            assert new.bodies("command.deploy") == new.bodies("command.stop") == []
            states = [each["state"] for each in (await deployment(world, order["deploymentId"]))["replicaStatus"]]
            assert states == ["running"]


async def test_the_same_message_twice_is_one_message(world: World) -> None:
    async with played(world, await token_of(world, await a_node_record(world))) as node:
        order = await runs(world, node)
        news = {"messageId": "msg-1", "data": {**about(order), "status": "running", "state": "running", "restarts": 1}}
        for _ in range(3):
            await node.send("deployment.status", news)
            await node.send("command.result", {"data": {"originalMessageId": "msg-0", "status": "success"}})
            await node.send("telemetry.heartbeat", {"messageId": "msg-2", "data": {"uptimeSeconds": 7}})
            await node.send("node.register", {"messageId": "msg-3", "data": {**FACTS, "replicas": [running(order, 1)]}})
        await eventually(lambda: len(node.bodies("register.ack")) == 4)
        after = await deployment(world, order["deploymentId"])
        events = [each["event"] for each in after["events"]]
        assert (events.count("replica.restarted"), events.count("model.deployment.running")) == (1, 1)
        assert [each["restarts"] for each in after["replicaStatus"]] == [1]
        assert len(node.bodies("command.deploy")) == 1
        assert node.bodies("command.stop") == node.bodies("error") == []


async def test_news_of_an_earlier_generation_that_come_late_change_nothing(world: World) -> None:
    async with played(world, await token_of(world, await a_node_record(world))) as node:
        order = await runs(world, node)
        deployment_id = order["deploymentId"]
        await world.call("POST", f"/api/v1/deployments/{deployment_id}/restart", expect=202)
        await answered(node, await node.next("command.stop"))
        again = await node.next("command.deploy", lambda body: body["data"]["generation"] > order["generation"])
        await answered(node, again)
        newer = again["data"]
        await node.send("deployment.status", {"data": {**about(newer), "status": "running"}})
        await eventually(lambda: deployment_is(world, deployment_id, "running"))
        for state in ("failed", "stopped", "starting"):
            late = {**about(order), "status": "failed", "state": state}
            await node.send("deployment.status", {"data": late})
            await node.send("deployment.status", {"data": {**late, "replicaId": newer["replicaId"]}})
        await node.send("node.register", {"data": {**FACTS, "replicas": [running(newer)]}})
        await eventually(lambda: len(node.bodies("register.ack")) == 2)
        after = await deployment(world, deployment_id)
        current = [each for each in after["replicaStatus"] if each["replicaId"] == newer["replicaId"]]
        assert [each["state"] for each in current] == ["running"]
        assert after["status"] == "running"


async def test_a_hundred_nodes_behind_one_private_address_stay_apart(world: World) -> None:
    async with AsyncExitStack() as stack:
        nodes: dict[str, PlayedNode] = {}
        for number in range(MANY):
            node_id = await a_node_record(world, f"gpu-{number}")
            token = await token_of(world, node_id)
            nodes[node_id] = await stack.enter_async_context(played(world, token))
        for number, node in enumerate(nodes.values()):
            facts = {**FACTS, "ipAddress": ONE_ADDRESS, "hostname": "gpu", "cpuCores": number + 1, "replicas": []}
            await node.send("node.register", {"data": facts})
        for node in nodes.values():
            await node.next("register.ack")
        views = [await seen(world, node_id) for node_id in nodes]
        assert {view["status"] for view in views} == {"online"}
        assert {view["ipAddress"] for view in views} == {ONE_ADDRESS}
        assert [view["cpuCores"] for view in views] == list(range(1, MANY + 1))
        model_id = await ready_model(world)
        chosen = list(nodes)[:: MANY // 4]
        for node_id in chosen:
            body = {"name": f"on-{node_id[-8:]}", "modelId": model_id, "nodeId": node_id}
            await world.call("POST", "/api/v1/deployments", json=body, expect=201)
            order = await nodes[node_id].next("command.deploy")
            assert order["data"]["deploymentName"] == body["name"]
        asked = [node_id for node_id, node in nodes.items() if node.bodies("command.deploy")]
        assert asked == chosen


async def answered(node: PlayedNode, command: dict[str, Any]) -> None:
    origin = {"originalMessageId": command["messageId"]}
    await node.send("command.ack", {"data": origin})
    await node.send("command.result", {"data": {**origin, "status": "success", "result": {}}})


async def runs(world: World, node: PlayedNode) -> dict[str, Any]:
    """A deployment that the played node says it runs; the data of its `command.deploy`."""
    await node.send("node.register", {"data": {**FACTS, "replicas": []}})
    await node.next("register.ack")
    body = {"name": "digits", "modelId": await ready_model(world)}
    made = await world.call("POST", "/api/v1/deployments", json=body, expect=201)
    order = await node.next("command.deploy")
    await answered(node, order)
    data: dict[str, Any] = order["data"]
    await node.send("deployment.status", {"data": {**about(data), "status": "running", "state": "running"}})
    await eventually(lambda: deployment_is(world, str(made["deploymentId"]), "running"))
    return data


def about(order: dict[str, Any]) -> dict[str, Any]:
    return {name: order[name] for name in ("deploymentId", "replicaId", "generation")}


def running(order: dict[str, Any], restarts: int = 0) -> dict[str, Any]:
    return {**about(order), "state": "running", "restarts": restarts}
