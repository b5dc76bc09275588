"""What a node still runs, after the controller has given it up, ends when the node returns; what nobody knows stays."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.flows.test_road import a_deployment, becomes, deployment
from tests.wire.played_node import PlayedNode, a_node_record, played, token_of

from aiwm.deployments.records import STATES
from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually, open_world

FACTS = {"engines": [{"name": "triton"}], "ipAddress": "10.0.0.7"}


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def answered(node: PlayedNode, command: dict[str, Any]) -> None:
    about = {"originalMessageId": command["messageId"]}
    await node.send("command.ack", {"data": about})
    await node.send("command.result", {"data": {**about, "status": "success", "result": {}}})


async def deployed(world: World, node: PlayedNode) -> dict[str, Any]:
    """A deployment whose one replica the played node says it runs; the `command.deploy`'s data."""
    await node.send("node.register", FACTS)
    await node.next("register.ack")
    made = await a_deployment(world, modelId=await ready_model(world))
    order = await node.next("command.deploy")
    await answered(node, order)
    data: dict[str, Any] = order["data"]
    await node.send("deployment.status", {"data": {"deploymentId": data["deploymentId"], "status": "running"}})
    await becomes(world, made["deploymentId"], "running")
    return data


def running(order: dict[str, Any], **changes: str) -> dict[str, Any]:
    about = {name: order[name] for name in ("deploymentId", "replicaId", "generation")}
    return {**FACTS, "replicas": [{**about, "state": "running", **changes}]}


async def test_a_bare_status_of_the_source_is_enough_to_be_running(world: World) -> None:
    node_id = await a_node_record(world)
    async with played(world, await token_of(world, node_id)) as node:
        order = await deployed(world, node)
        seen = await deployment(world, order["deploymentId"])
        assert (seen["nodeId"], seen["isRunning"], seen["statusReason"]) == (node_id, True, None)
        assert node.bodies("error") == []


async def test_what_a_deleted_deployment_left_running_is_ended_when_its_node_returns(world: World) -> None:
    token = await token_of(world, await a_node_record(world))
    async with played(world, token) as node:
        order = await deployed(world, node)
    deployment_id = order["deploymentId"]
    await world.call("POST", f"/api/v1/deployments/{deployment_id}/stop", json={"force": True}, expect=202)
    await becomes(world, deployment_id, "stopped")
    await world.call("DELETE", f"/api/v1/deployments/{deployment_id}", expect=204)
    async with played(world, token) as node:
        await node.send("node.register", running(order))
        stop = await node.next("command.stop")
        assert (stop["data"]["deploymentId"], stop["data"]["replicaId"]) == (deployment_id, order["replicaId"])
        await answered(node, stop)
        session = world.controller.presence.of((await node.next("connection.ack"))["nodeId"])
        await eventually(lambda: session is not None and session.inventory == {})


async def test_a_late_word_of_a_deleted_deployment_s_replica_ends_it_too(world: World) -> None:
    token = await token_of(world, await a_node_record(world))
    async with played(world, token) as node:
        order = await deployed(world, node)
        deployment_id = order["deploymentId"]
        await world.call("DELETE", f"/api/v1/deployments/{deployment_id}", expect=202)
        await answered(node, await node.next("command.stop"))
        await eventually(lambda: world.controller.book.wish(deployment_id) is None)
        about = {"deploymentId": deployment_id, "replicaId": order["replicaId"], "status": "running"}
        await node.send("deployment.status", {"data": about})
        await eventually(lambda: len(node.bodies("command.stop")) == 2)


async def test_what_the_controller_never_heard_of_is_left_alone(world: World) -> None:
    """A store that was restored from an older copy does not know all deployments; that is no reason to end them."""
    token = await token_of(world, await a_node_record(world))
    async with played(world, token) as node:
        order = await deployed(world, node)
        await node.send("node.register", running(order, deploymentId="deploy-0", replicaId="replica-0"))
        await eventually(lambda: len(node.bodies("command.deploy")) == 2)
        assert node.bodies("command.stop") == []


async def test_a_silent_node_s_replica_is_found_again_as_it_was(world: World) -> None:
    node_id = await a_node_record(world)
    token = await token_of(world, node_id)
    async with played(world, token) as node:
        order = await deployed(world, node)
    await becomes(world, order["deploymentId"], "deploying")
    async with played(world, token) as node:
        await node.send("node.register", running(order))
        await becomes(world, order["deploymentId"], "running")
        seen = await deployment(world, order["deploymentId"])
        assert [each["replicaId"] for each in seen["replicaStatus"]] == [order["replicaId"]]
        assert node.bodies("command.stop") == node.bodies("command.deploy") == []


async def test_a_plan_whose_write_lost_a_race_finds_its_device_free_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, lost = world.infra.store.replace, set[object]()

    async def racing(collection: str, record: dict[str, object], *, version: int) -> bool:
        if collection == STATES and (record["id"], version) not in lost:
            lost.add((record["id"], version))
            return False
        return await replace(collection, record, version=version)

    monkeypatch.setattr(world.infra.store, "replace", racing)
    async with played(world, await token_of(world, await a_node_record(world))) as node:
        await node.send("node.register", {**FACTS, "gpuDevices": [{"deviceId": "0"}]})
        await node.next("register.ack")
        await a_deployment(world, modelId=await ready_model(world), resources={"gpuCount": 1})
        order = await node.next("command.deploy")
        assert order["data"]["gpuDeviceIds"] == ["0"]
    assert lost
