"""What really leaves controller and daemon on the main road, frame by frame, equal to `golden/emitted.json`.

Ids, times, addresses and tickets are masked; what a machine says of its own hardware is compared by name alone.
"""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.flows.test_road import a_deployment, becomes
from tests.wire.played_node import a_node_record, played, token_of

from aiwm import __version__
from aiwm.nodes.channel import NodeChannel
from aiwm.protocol import node_channel as wire
from aiwm.testing.road import ready_model
from aiwm.testing.world import World, open_world

EMITTED = Path(__file__).parent / "golden" / "emitted.json"
_MASKS = (
    (re.compile(r"\b([a-z]+)-[0-9a-hjkmnp-tv-z]{26}\b"), r"<\1 id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "<time>"),
    (re.compile(r"http://127\.0\.0\.1:\d+"), "<controller>"),
    (re.compile(r"/blobs/.+"), "/blobs/<ticket>"),
    (re.compile(re.escape(__version__)), "<version>"),
    (re.compile(r"aiwm-digits-[0-9a-z]{10}"), "<container>"),
)


def masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: masked(each) for name, each in value.items()}
    if isinstance(value, list):
        return [masked(each) for each in value]
    if isinstance(value, str):
        for pattern, instead in _MASKS:
            value = pattern.sub(instead, value)
    return value


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def from_controller(world: World) -> dict[str, Any]:
    """The first frame of each type that a node gets from registration to stop."""
    async with played(world, await token_of(world, await a_node_record(world))) as node:
        await node.send("telemetry.unheard", {"messageId": "msg-7"})
        await node.send("node.register", {"engines": [{"name": "triton"}]})
        await node.next(wire.REGISTER_ACK)
        made = await a_deployment(world, modelId=await ready_model(world), metadata={"a": 1})
        order = await node.next(wire.COMMAND_DEPLOY)
        await _succeed(node, order)
        await node.send("deployment.status", {"data": {"deploymentId": made["deploymentId"], "status": "running"}})
        await becomes(world, made["deploymentId"], "running")
        await world.call("POST", f"/api/v1/deployments/{made['deploymentId']}/stop", expect=202)
        await _succeed(node, await node.next(wire.COMMAND_STOP))
        await becomes(world, made["deploymentId"], "stopped")
        await node.next(wire.COMMAND_HEALTH_CHECK)
        return {name: masked(body) for name, body in reversed(node.received)}


async def _succeed(node: Any, command: dict[str, Any]) -> None:
    about = {"originalMessageId": command["messageId"]}
    await node.send("command.ack", {"data": about})
    await node.send("command.result", {"data": {**about, "status": "success", "result": {}}})


async def from_daemon(world: World, heard: list[tuple[str, Any]]) -> dict[str, Any]:
    """The last frame of each type that a daemon sends on the same road."""
    await world.node("gpu-1")
    made = await a_deployment(world, modelId=await ready_model(world))
    await becomes(world, made["deploymentId"], "running")
    await world.call("POST", f"/api/v1/deployments/{made['deploymentId']}/stop", expect=202)
    await becomes(world, made["deploymentId"], "stopped")
    return dict(heard)


async def test_the_controller_s_frames_are_the_frozen_ones(world: World) -> None:
    assert await from_controller(world) == json.loads(EMITTED.read_text())["controller"]


async def test_the_daemon_s_frames_have_the_frozen_names(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, Any]] = []
    receive = NodeChannel._receive

    async def listening(self: NodeChannel, session: Any, event: str, body: object) -> None:
        heard.append((event, body))
        await receive(self, session, event, body)

    monkeypatch.setattr(NodeChannel, "_receive", listening)
    sent = await from_daemon(world, heard)
    frozen = json.loads(EMITTED.read_text())["daemon"]
    assert sent.keys() >= frozen.keys()
    for name, body in sent.items():
        about = json.loads((EMITTED.parent / f"{name}.json").read_text())
        assert body.keys() - {"metadata"} == {"type", "messageId", "timestamp", "data"}, name
        assert body["data"].keys() <= about["data"].keys(), name
        assert body.get("metadata", {}).keys() <= about["metadata"].keys(), name
        assert set(frozen.get(name, ())) <= body["data"].keys(), name
