"""A node that is not what it says, or floods and chokes its controller: it harms itself alone."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from tests.faults.link_harness import deployment, deployment_is, seen
from tests.faults.raw_node import RawNode, event, raw_node
from tests.wire.played_node import PlayedNode, a_node_record, played, token_of

from aiwm.protocol.node_channel import MAX_MESSAGE_BYTES
from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually, open_world

FACTS = {"engines": [{"name": "triton"}]}
FLOOD = 10_000
POLITE_SECONDS = 2.0


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def test_an_oversized_message_ends_its_own_connection_and_no_other(world: World) -> None:
    big, small = await a_node_record(world, "big"), await a_node_record(world, "small")
    async with played(world, await token_of(world, small)) as other, raw_node(world, await token_of(world, big)) as raw:
        await raw.event("node.register", {"data": FACTS})
        await raw.next("register.ack")
        await raw.event("node.register", {"data": {"hostname": "h" * MAX_MESSAGE_BYTES}})
        assert not await raw.lasts()
        await eventually(lambda: status_is(world, big, "offline"))
        await still_served(other)
        assert (await seen(world, big))["hostname"] is None
    async with raw_node(world, await token_of(world, big)) as raw:
        await raw.event("node.register", {"data": FACTS})
        await raw.next("register.ack")


NOISE = {
    "no packet type": "",
    "letters": "hello",
    "an unknown packet type": "9",
    "an unknown socket packet": '48/ws/node,["x"]',
    "an event without a name": "42/ws/node,[]",
    "an event that is a number": "42/ws/node,7",
    "an event that is an object": '42/ws/node,{"a":1}',
    "an event whose name is a list": '42/ws/node,[["node.register"],{}]',
    "an endless id": "42/ws/node," + "1" * 200 + '["x"]',
    "a connect error": '44/ws/node,{"message":"no"}',
    "a second connect": '40/ws/node,{"token":"x"}',
    "another namespace": '42/notifications,["x",{}]',
    "an acknowledgement nobody waits for": "43/ws/node,7[]",
    "attachments that never come": '459-/ws/node,["x",{"_placeholder":true,"num":8}]',
    "an attachment too few": '451-/ws/node,["node.register",{"_placeholder":true,"num":4}]',
    "brackets": "42/ws/node," + "[" * 100_000,
    "brackets before the packet": "4" + "[" * 100_000,
    "objects in objects": '42/ws/node,["node.register",' + '{"data":' * 400 + "1" + "}" * 401 + "]",
    "a lone surrogate": '42/ws/node,["node.register",{"data":{"hostname":"\\ud800"}}]',
    "a number without end": '42/ws/node,["node.register",{"data":{"cpuCores":' + "9" * 5000 + "}}]",
}


@pytest.mark.parametrize("frame", NOISE.values(), ids=NOISE.keys())
async def test_noise_costs_at_most_the_connection_it_came_on(world: World, frame: str) -> None:
    noisy, polite = await a_node_record(world, "noisy"), await a_node_record(world, "polite")
    async with played(world, await token_of(world, polite)) as other:
        await still_served(other)
        async with raw_node(world, await token_of(world, noisy)) as raw:
            for _ in range(3):
                await raw.text(frame)
            await raw.lasts(within=1)
        await still_served(other)
        assert len(other.bodies("connection.ack")) == 1
    async with raw_node(world, await token_of(world, noisy)) as raw:
        await raw.event("node.register", {"data": FACTS})
        await raw.next("register.ack")


async def test_noise_over_polling_costs_nobody_a_traceback(world: World) -> None:
    url = f"{world.url}/socket.io/?EIO=4&transport=polling"
    async with aiohttp.ClientSession() as http:
        async with http.get(url) as answer:
            sid = json.loads((await answer.text())[1:])["sid"]
        for frame in NOISE.values():
            async with http.post(f"{url}&sid={sid}", data=frame) as answer:
                assert answer.status in (200, 400)
    async with raw_node(world, await token_of(world, await a_node_record(world))) as raw:
        assert await raw.lasts()


def deep(levels: int) -> Any:
    nested: Any = 1
    for _ in range(levels):
        nested = {"data": nested}
    return nested


SWOLLEN: dict[str, tuple[str, dict[str, Any]]] = {
    "ten thousand replicas": (
        "node.register",
        {"replicas": [{"deploymentId": "d", "replicaId": str(n), "state": "running"} for n in range(10_000)]},
    ),
    "ten thousand devices": ("telemetry.metrics", {"gpuDevices": [{"deviceId": str(n)} for n in range(10_000)]}),
    "ten thousand engines": ("node.register", {"engines": [{"name": str(n)} for n in range(10_000)]}),
    "a name of half a megabyte": ("node.register", {"hostname": "h" * 500_000}),
    "devices that are nests": ("telemetry.metrics", {"gpuDevices": [deep(300)]}),
    "a nest beside the fields": ("telemetry.heartbeat", {"uptimeSeconds": -1, "mood": deep(300)}),
    "a state that is a nest": ("deployment.status", {"deploymentId": "d", "status": deep(300)}),
}


@pytest.mark.parametrize(("kind", "data"), SWOLLEN.values(), ids=SWOLLEN.keys())
async def test_a_swollen_message_is_refused_by_name_and_the_connection_stays(
    world: World, kind: str, data: dict[str, Any]
) -> None:
    node_id = await a_node_record(world)
    async with played(world, await token_of(world, node_id)) as node:
        await node.send(kind, {"messageId": "msg-1", "data": data})
        error = await node.next("error")
        assert (error["data"]["code"], error["data"]["originalMessageId"]) == ("MESSAGE_INVALID", "msg-1")
        assert len(json.dumps(error)) < 2000
        await still_served(node)
        view = await seen(world, node_id)
        assert (view["gpuDevices"], view["hostname"]) == ([], None)


async def test_a_node_cannot_speak_of_another_s_replicas(world: World) -> None:
    good, evil = await a_node_record(world, "good"), await a_node_record(world, "evil")
    async with played(world, await token_of(world, good)) as honest:
        order = await runs(world, honest)
        about = {name: order[name] for name in ("deploymentId", "replicaId", "generation")}
        before = await deployment(world, order["deploymentId"])
        async with played(world, await token_of(world, evil)) as liar:
            await register(liar, {"data": {**FACTS, "nodeId": good, "replicas": [{**about, "state": "failed"}]}})
            for state, status in (("failed", "failed"), ("stopped", "stopped"), ("running", "running")):
                lie = {**about, "state": state, "status": status, "endpoint": "http://10.6.6.6:80", "restarts": 9}
                await liar.send("deployment.status", {"nodeId": good, "data": {**lie, "nodeId": good}})
                await liar.send(
                    "deployment.status", {"data": {"deploymentId": about["deploymentId"], "status": status}}
                )
            progress = {"modelId": order["modelId"], **about, "bytesDone": 1, "bytesTotal": 2}
            await liar.send("model.progress", {"data": progress})
            health = await liar.next("command.healthCheck")
            origin = {"originalMessageId": health["messageId"]}
            result = {"status": "healthy", "replicas": [{**about, "state": "failed"}]}
            await liar.send("command.ack", {"data": origin})
            await liar.send("command.result", {"data": {**origin, "status": "success", "result": result}})
            await still_served(liar)
            # What it says it runs of a deployment that has nothing there, it is told to end.
            assert [body["data"]["replicaId"] for body in liar.bodies("command.stop")[:1]] in ([], [about["replicaId"]])
        await still_served(honest)
        after = await deployment(world, order["deploymentId"])
        assert after["replicaStatus"] == before["replicaStatus"]
        assert after["status"] == "running"
        assert honest.bodies("command.stop") == []


async def test_a_node_cannot_answer_a_command_that_another_was_given(world: World) -> None:
    good, evil = await a_node_record(world, "good"), await a_node_record(world, "evil")
    async with (
        played(world, await token_of(world, good)) as honest,
        played(world, await token_of(world, evil)) as liar,
    ):
        await register(honest, {"data": {**FACTS, "replicas": []}})
        body = {"name": "digits", "modelId": await ready_model(world), "nodeId": good}
        made = await world.call("POST", "/api/v1/deployments", json=body, expect=201)
        order = await honest.next("command.deploy")
        origin = {"originalMessageId": order["messageId"]}
        failure = {"code": "CONTAINER_START_FAILED", "message": "I say so", "retryable": False}
        await liar.send("command.ack", {"data": origin})
        await liar.send("command.result", {"data": {**origin, "status": "error", "error": failure}})
        await still_served(liar)
        assert not await deployment_is(world, str(made["deploymentId"]), "failed")
        await answered(honest, order)
        about = {name: order["data"][name] for name in ("deploymentId", "replicaId", "generation")}
        await honest.send("deployment.status", {"data": {**about, "status": "running", "state": "running"}})
        await eventually(lambda: deployment_is(world, str(made["deploymentId"]), "running"))


async def test_a_flood_from_one_node_does_not_starve_another(world: World) -> None:
    loud, quiet = await a_node_record(world, "loud"), await a_node_record(world, "quiet")
    async with (
        raw_node(world, await token_of(world, loud)) as raw,
        played(world, await token_of(world, quiet)) as other,
    ):
        await raw.event("node.register", {"data": FACTS})
        await raw.next("register.ack")
        await still_served(other)
        flooding = asyncio.create_task(flood(raw))
        waited: list[float] = []
        while not flooding.done():
            uptime = len(waited) + 1
            began = time.monotonic()
            await other.send("telemetry.heartbeat", {"data": {"uptimeSeconds": uptime}})
            await eventually(lambda: beaten(world, quiet, uptime), within=20)  # noqa: B023
            waited.append(time.monotonic() - began)
        began = time.monotonic()
        assert await raw.lasts()
        worst, left = max(waited), time.monotonic() - began
        print(
            f"{FLOOD} messages: {len(waited)} heartbeats of another, worst {worst:.2f} s; the flood's end {left:.2f} s"
        )
        assert worst < POLITE_SECONDS
        assert await status_is(world, quiet, "online")


async def flood(raw: RawNode) -> None:
    """As fast as the connection takes it: pings must still be answered, or it would end."""
    frame = event("telemetry.metrics", {"data": {"gpuDevices": [{"deviceId": "0", "temperature": 50}], "ramFree": 5}})
    for number in range(FLOOD):
        await raw.text(frame)
        if number % 100 == 0:
            await answer_pings(raw)


async def answer_pings(raw: RawNode) -> None:
    while True:
        try:
            message = await raw.socket.receive(0.001)
        except TimeoutError:
            return
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionError(f"the flood's connection ended: {message}")
        if message.data == "2":
            await raw.text("3")


async def beaten(world: World, node_id: str, uptime: int) -> bool:
    return bool((await seen(world, node_id))["uptimeSeconds"] == uptime)


async def status_is(world: World, node_id: str, status: str) -> bool:
    return bool((await seen(world, node_id))["status"] == status)


async def register(node: PlayedNode, body: dict[str, Any]) -> None:
    before = len(node.bodies("register.ack"))
    await node.send("node.register", body)
    await eventually(lambda: len(node.bodies("register.ack")) > before)


async def still_served(node: PlayedNode) -> None:
    """The connection answers, and so has been read what came before."""
    before = len(node.bodies("error"))
    await node.send("node.unheard", {"data": {}})
    await eventually(lambda: len(node.bodies("error")) > before)


async def answered(node: PlayedNode, command: dict[str, Any]) -> None:
    origin = {"originalMessageId": command["messageId"]}
    await node.send("command.ack", {"data": origin})
    await node.send("command.result", {"data": {**origin, "status": "success", "result": {}}})


async def runs(world: World, node: PlayedNode) -> dict[str, Any]:
    """A deployment that the node says it runs; the data of its `command.deploy`."""
    await register(node, {"data": {**FACTS, "replicas": []}})
    made = await world.call(
        "POST", "/api/v1/deployments", json={"name": "digits", "modelId": await ready_model(world)}, expect=201
    )
    order = await node.next("command.deploy")
    await answered(node, order)
    data: dict[str, Any] = order["data"]
    about = {name: data[name] for name in ("deploymentId", "replicaId", "generation")}
    await node.send("deployment.status", {"data": {**about, "status": "running", "state": "running"}})
    await eventually(lambda: deployment_is(world, str(made["deploymentId"]), "running"))
    return data
