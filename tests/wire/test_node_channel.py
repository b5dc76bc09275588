"""The node channel over a real socket, spoken with the source's own frames and with nonsense."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.wire.played_node import NAMESPACE, PlayedNode, a_node_record, played, token_of

from aiwm import __version__
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import SystemClock
from aiwm.protocol.states import PrincipalKind
from aiwm.testing.world import World, eventually, open_world

FRAMES = json.loads((Path(__file__).parent / "source" / "frames.json").read_text())["from_node"]
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def seen(world: World, node_id: str) -> dict[str, Any]:
    return await world.call("GET", f"/api/v1/nodes/{node_id}", expect=200)


async def still_served(node: PlayedNode) -> None:
    """The connection answers: a registration is acknowledged."""
    before = len(node.bodies("register.ack"))
    await node.send("node.register", {})
    await eventually(lambda: len(node.bodies("register.ack")) > before)


async def test_a_connect_is_acknowledged_once_with_its_fields_at_top_level(world: World) -> None:
    node_id = await a_node_record(world)
    async with played(world, await token_of(world, node_id)) as node:
        ack = await node.next("connection.ack")
        await still_served(node)
        assert node.bodies("connection.ack") == [ack]
    assert ack.keys() == {"status", "timestamp", "nodeId", "controllerId", "serverVersion"}
    assert (ack["status"], ack["nodeId"], ack["serverVersion"]) == ("connected", node_id, __version__)
    assert ack["controllerId"].startswith("controller-")
    assert MOMENT.fullmatch(ack["timestamp"])


async def test_a_token_in_the_authorization_header_opens_the_channel_too(world: World) -> None:
    token = await token_of(world, await a_node_record(world))
    async with played(world, None, Authorization=f"Bearer {token}") as node:
        await node.next("connection.ack")


async def test_a_registration_is_acknowledged_with_the_contract_s_fields(world: World) -> None:
    node_id = await a_node_record(world)
    async with played(world, await token_of(world, node_id)) as node:
        await node.send("node.register", {"data": {"hostname": "gpu-1"}})
        ack = await node.next("register.ack")
        controller_id = (await node.next("connection.ack"))["controllerId"]
    assert ack.keys() == {"type", "messageId", "timestamp", "data"}
    assert ack["type"] == "register.ack"
    assert MOMENT.fullmatch(ack["data"].pop("registeredAt"))
    assert ack["data"] == {
        "status": "success",
        "nodeId": node_id,
        "epoch": 1,
        "controllerInfo": {
            "controllerId": controller_id,
            "heartbeatInterval": 30_000,
            "metricsInterval": 10_000,
            "timezone": "UTC",
        },
        "pendingCommands": [],
    }


async def test_after_a_registration_the_node_is_asked_for_its_health(world: World) -> None:
    node_id = await a_node_record(world)
    async with played(world, await token_of(world, node_id)) as node:
        await node.send("node.register", {})
        asked = await node.next("command.healthCheck")
        about = {"originalMessageId": asked["messageId"]}
        await node.send("command.ack", {"data": about})
        await node.send(
            "command.result", {"data": {**about, "status": "success", "result": {"status": "healthy", "replicas": []}}}
        )
        assert asked.keys() == {"type", "messageId", "timestamp", "data", "metadata"}
        assert asked["data"] == {}
        assert asked["metadata"]["epoch"] == 1
        await still_served(node)


@pytest.mark.parametrize("bare", [False, True], ids=["with its type", "bare data"])
async def test_the_source_s_own_frames_are_understood(world: World, bare: bool) -> None:
    node_id = await a_node_record(world)
    async with played(world, await token_of(world, node_id)) as node:
        for frame in FRAMES:
            await node.send(frame["type"], frame["data"] if bare else frame)
        await still_served(node)
        after = await seen(world, node_id)
        assert node.bodies("error") == []
    assert (after["status"], after["uptimeSeconds"]) == ("online", 86_400)
    assert after["lastHeartbeat"]
    (gpu,) = after["gpuDevices"]
    assert {name: gpu[name] for name in ("deviceId", "temperature", "memoryTotal", "memoryFree", "utilization")} == {
        "deviceId": "0",
        "temperature": 72,
        "memoryTotal": 16_384,
        "memoryFree": 8192,
        "utilization": 85,
    }


async def refusal(world: World, token: object) -> dict[str, Any]:
    async with played(world, token) as node:
        ((_, body),) = node.received
    assert body["data"].keys() == {"code", "message"}
    assert body["message"] == body["data"]["code"]
    assert body["data"]["message"].startswith("cannot ")
    return dict(body["data"])


@pytest.mark.parametrize(
    ("token", "code"),
    [(None, "TOKEN_MISSING"), ("", "TOKEN_MISSING"), (7, "TOKEN_MISSING"), ("x.y.z", "TOKEN_INVALID")],
)
async def test_a_connect_without_a_good_token_is_refused_by_code(world: World, token: object, code: str) -> None:
    assert (await refusal(world, token))["code"] == code


async def test_a_user_s_token_does_not_open_the_node_channel(world: World) -> None:
    users = world.http.headers["Authorization"].removeprefix("Bearer ")
    assert (await refusal(world, users))["code"] == "TOKEN_INVALID"


async def test_a_token_of_another_signer_does_not_open_the_node_channel(world: World) -> None:
    stranger = Tokens((b"another secret of at least thirty-two bytes",), SystemClock())
    token, _ = stranger.issue(PrincipalKind.NODE, await a_node_record(world), expires_in=60)
    assert (await refusal(world, token))["code"] == "TOKEN_INVALID"


async def test_an_expired_token_says_so(world: World) -> None:
    token, _ = world.infra.tokens.issue(PrincipalKind.NODE, await a_node_record(world), expires_in=-3600)
    assert (await refusal(world, token))["code"] == "TOKEN_EXPIRED"


async def test_a_token_of_a_node_that_never_was_says_so(world: World) -> None:
    token, _ = world.infra.tokens.issue(PrincipalKind.NODE, "node-0", expires_in=60)
    assert (await refusal(world, token))["code"] == "NODE_NOT_FOUND"


async def test_a_deleted_node_is_refused_and_its_connection_ended(world: World) -> None:
    node_id = await a_node_record(world)
    token = await token_of(world, node_id)
    async with played(world, token) as node:
        await node.next("connection.ack")
        await world.call("DELETE", f"/api/v1/nodes/{node_id}", expect=204)
        await eventually(lambda: NAMESPACE not in node.client.namespaces)
    assert (await refusal(world, token))["code"] == "NODE_INACTIVE"


@pytest.mark.parametrize("event", ["telemetry.unheard", "command.deploy", "connection.ack", "x" * 5000, "🦆"])
async def test_an_unknown_message_is_answered_and_survived(world: World, event: str) -> None:
    async with played(world, await token_of(world, await a_node_record(world))) as node:
        await node.send(event, {"type": event, "messageId": "msg-7", "data": {}})
        error = await node.next("error")
        assert error["type"] == "error"
        assert (error["data"]["code"], error["data"]["originalMessageId"]) == ("MESSAGE_UNKNOWN", "msg-7")
        await still_served(node)


RUNS = {"deploymentId": "deploy-1", "replicaId": "replica-1", "state": "running"}
INVALID = [
    ("telemetry.heartbeat", {"data": {"status": "splendid"}}),
    ("telemetry.heartbeat", {"data": {"uptimeSeconds": -1}}),
    ("telemetry.heartbeat", {"data": {"uptimeSeconds": float("inf")}}),
    ("telemetry.heartbeat", {"data": {"timestamp": "yesterday"}}),
    ("telemetry.heartbeat", {"type": "telemetry.heartbeat", "data": "healthy"}),
    ("telemetry.heartbeat", {"type": "telemetry.heartbeat", "data": None}),
    ("telemetry.heartbeat", "healthy"),
    ("telemetry.heartbeat", ["healthy"]),
    ("telemetry.heartbeat", b"\x00\xff"),
    ("telemetry.metrics", {"data": {"gpuDevices": [{"temperature": 1}]}}),
    ("telemetry.metrics", {"data": {"gpuDevices": [{"deviceId": "0", "temperature": float("nan")}]}}),
    ("telemetry.metrics", {"data": {"gpuDevices": [{"deviceId": "0", "model": "\ud800"}]}}),
    ("telemetry.metrics", {"data": {"gpuDevices": [{"deviceId": str(n)} for n in range(1000)]}}),
    ("telemetry.metrics", {"data": {"ramFree": 2**70}}),
    ("telemetry.metrics", {"data": {"gpuDevices": [{"deviceId": "0", "xid": 2**70}]}}),
    ("telemetry.metrics", {"data": {"gpuDevices": [{"deviceId": "0", "eccErrors": 2**64}]}}),
    ("telemetry.metrics", {"data": {"gpuDevices": [{"deviceId": "0", "temperature": 1e300}]}}),
    ("node.register", {"data": {"replicas": [{**RUNS, "restarts": 2**64}]}}),
    ("node.register", {"data": {"replicas": [{**RUNS, "generation": 2**64}]}}),
    ("deployment.status", {"data": {**RUNS, "status": "running", "generation": 2**64}}),
    ("deployment.status", {"data": {"status": "running"}}),
    ("deployment.status", {"data": {"deploymentId": "../../x", "status": "running"}}),
    ("deployment.status", {"data": {"deploymentId": "deploy-1", "status": "exploded"}}),
    ("node.register", {"data": {"cpuCores": "many"}}),
    ("node.register", {"data": {"hostname": "h" * 5000}}),
    ("command.result", {"data": {}}),
]


@pytest.mark.parametrize(
    ("event", "body"), INVALID, ids=lambda each: str(each)[:60].encode("ascii", "replace").decode()
)
async def test_a_message_that_cannot_be_read_is_answered_and_survived(world: World, event: str, body: Any) -> None:
    node_id = await a_node_record(world)
    async with played(world, await token_of(world, node_id)) as node:
        await node.send(event, {**body, "messageId": "msg-7"} if isinstance(body, dict) else body)
        error = await node.next("error")
        assert error["data"]["code"] == "MESSAGE_INVALID"
        assert error["data"]["message"].startswith(f"cannot read {event}: ")
        assert error["data"].get("originalMessageId") == ("msg-7" if isinstance(body, dict) else None)
        await still_served(node)
        assert (await seen(world, node_id))["gpuDevices"] == []


async def test_a_flood_of_nonsense_does_not_end_the_connection_or_hurt_another(world: World) -> None:
    one = await token_of(world, await a_node_record(world, "one"))
    two = await token_of(world, await a_node_record(world, "two"))
    async with played(world, one) as rude, played(world, two) as polite:
        for number in range(200):
            await rude.send(f"nonsense.{number}", number, None, {"deep": [[[]]]})
        await eventually(lambda: len(rude.bodies("error")) == 200)
        await still_served(rude)
        await still_served(polite)
        assert polite.bodies("error") == []


async def test_unknown_fields_are_ignored(world: World) -> None:
    node_id = await a_node_record(world)
    async with played(world, await token_of(world, node_id)) as node:
        await node.send("telemetry.heartbeat", {"data": {"uptimeSeconds": 5, "mood": "fine"}, "extra": 1})
        await still_served(node)
        assert node.bodies("error") == []
    await eventually(lambda: _is(world, node_id, "offline"))


async def _is(world: World, node_id: str, status: str) -> bool:
    return bool((await seen(world, node_id))["status"] == status)


async def test_a_newer_connection_replaces_the_older_and_counts_the_epoch(world: World) -> None:
    node_id = await a_node_record(world)
    token = await token_of(world, node_id)
    async with played(world, token) as older:
        await still_served(older)
        async with played(world, token) as newer:
            await still_served(newer)
            assert (await newer.next("register.ack"))["data"]["epoch"] == 2
            await eventually(lambda: NAMESPACE not in older.client.namespaces)
            after = await seen(world, node_id)
            assert (after["status"], after["epoch"]) == ("online", 2)


async def test_a_node_speaks_about_itself_alone(world: World) -> None:
    one, two = await a_node_record(world, "one"), await a_node_record(world, "two")
    async with played(world, await token_of(world, one)) as node:
        await node.send("telemetry.heartbeat", {"nodeId": two, "data": {"nodeId": two, "uptimeSeconds": 1}})
        await still_served(node)
        assert (await seen(world, two))["lastHeartbeat"] is None
        assert (await seen(world, one))["uptimeSeconds"] == 1


async def test_a_copy_of_a_node_is_refused_while_the_newer_daemon_is_there_and_the_node_says_so(world: World) -> None:
    node_id = await a_node_record(world)
    token = await token_of(world, node_id)
    async with played(world, token, instance="first") as older:
        await still_served(older)
        async with played(world, token, instance="second") as newer:
            await still_served(newer)
            await eventually(lambda: NAMESPACE not in older.client.namespaces)
            async with played(world, token, instance="first") as again:
                ((_, body),) = again.received
                assert body["data"]["code"] == "NODE_REPLACED"
            await still_served(newer)
            assert world.controller.roster.seen(node_id).cloned_at is not None


async def test_a_registration_that_does_not_say_what_runs_ends_nothing(world: World) -> None:
    node_id = await a_node_record(world)
    report = {"deploymentId": "deploy-1", "replicaId": "replica-1", "state": "running"}
    async with played(world, await token_of(world, node_id)) as node:
        await node.send("node.register", {"data": {"replicas": [report]}})
        await node.next("register.ack")
        await node.send("node.register", {})
        await still_served(node)
        session = world.controller.presence.of(node_id)
        assert session is not None
        assert list(session.inventory) == ["replica-1"]
