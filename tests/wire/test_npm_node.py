"""npm's socket.io-client plays a node: a worker written in JavaScript from the source document is at home here."""

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.wire.played_node import a_node_record, token_of

from aiwm import __version__
from aiwm.nodes.records import NODES
from aiwm.protocol.states import PrincipalKind
from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually, open_world

_HERE = Path(__file__).parent
_MODULES = _HERE.parents[1] / ".cache" / "npm-socket.io-client"
FRAMES = json.loads((_HERE / "source" / "frames.json").read_text())["from_node"]
FACTS = {"hostname": "gpu-1", "ipAddress": "192.168.1.100", "cpuCores": 16, "engines": [{"name": "triton"}]}


@pytest.fixture(scope="module")
def modules() -> Path:
    """A folder with npm's socket.io-client."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no Node.js: apt-get install nodejs npm")
    if not (_MODULES / "node_modules" / "socket.io-client").is_dir():
        _MODULES.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(_MODULES), "socket.io-client@4"]
        done = subprocess.run(command, capture_output=True, timeout=300, check=False)
        if done.returncode != 0:
            pytest.skip(f"no socket.io-client: {' '.join(command)}")
    return _MODULES


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


@dataclass
class NpmNode:
    """The process and what it has heard: each event's name and body."""

    process: asyncio.subprocess.Process
    heard: list[tuple[str, Any]] = field(default_factory=list)

    def bodies(self, event: str) -> list[Any]:
        return [body for name, body in self.heard if name == event]

    async def next(self, event: str, which: Callable[[Any], bool] = lambda body: True) -> Any:
        """The first such event, waited for."""
        await eventually(lambda: any(which(body) for body in self.bodies(event)))
        return next(body for body in self.bodies(event) if which(body))

    async def send(self, event: str, body: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([event, body]).encode() + b"\n")
        await self.process.stdin.drain()

    async def answer(self, command: dict[str, Any], result: dict[str, Any]) -> None:
        """Acknowledges and ends a command, as the source has it."""
        about = {"originalMessageId": command["messageId"]}
        await self.send("command.ack", {"type": "command.ack", "data": {**about, "status": "acknowledged"}})
        body = {"type": "command.result", "data": {**about, "status": "success", "result": result}}
        await self.send("command.result", body)

    async def registered(self) -> dict[str, Any]:
        """Registers with the source's kind of frame; the answer."""
        await self.send("node.register", {"type": "node.register", "data": {**FACTS, "replicas": []}})
        ack: dict[str, Any] = await self.next("register.ack")
        return ack

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            self.heard.append((said["event"], said.get("body")))


@asynccontextmanager
async def npm_node(world: World, modules: Path, **options: object) -> AsyncIterator[NpmNode]:
    """A node that connects with these options of socket.io-client."""
    process = await asyncio.create_subprocess_exec(
        *("node", str(_HERE / "node_client.mjs"), world.url, json.dumps(options), str(modules)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    node = NpmNode(process)
    listening = asyncio.create_task(node.listen())
    try:
        yield node
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
    assert process.returncode == 0


WAYS = {
    "polling, then websocket": {},
    "websocket alone": {"transports": ["websocket"]},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
async def test_a_worker_is_let_in_registers_and_is_online(world: World, modules: Path, way: dict[str, Any]) -> None:
    node_id = await a_node_record(world)
    async with npm_node(world, modules, auth={"token": await token_of(world, node_id)}, **way) as node:
        ack = await node.next("connection.ack")
        assert ack.keys() == {"status", "timestamp", "nodeId", "controllerId", "serverVersion"}
        assert (ack["status"], ack["nodeId"], ack["serverVersion"]) == ("connected", node_id, __version__)
        used = ["websocket"] if way else ["polling", "websocket"]
        await eventually(lambda: node.bodies("transport") == used)
        registered = (await node.registered())["data"]
        assert (registered["status"], registered["nodeId"], registered["epoch"]) == ("success", node_id, 1)
        assert registered["pendingCommands"] == []
        assert node.bodies("connection.ack") == [ack]
        view = await world.call("GET", f"/api/v1/nodes/{node_id}", expect=200)
        assert (view["status"], view["hostname"], view["cpuCores"]) == ("online", "gpu-1", 16)
    await eventually(lambda: status_is(world, node_id, "offline"))


async def test_the_authorization_header_lets_a_worker_in_too(world: World, modules: Path) -> None:
    token = await token_of(world, await a_node_record(world))
    async with npm_node(world, modules, extraHeaders={"Authorization": f"Bearer {token}"}) as node:
        await node.next("connection.ack")
        await node.registered()


async def test_a_worker_whose_connection_was_ended_dials_in_again_by_itself(world: World, modules: Path) -> None:
    """socket.io-client does so when the transport is lost, though not when the server says goodbye."""
    node_id = await a_node_record(world)
    async with npm_node(world, modules, auth={"token": await token_of(world, node_id)}) as node:
        await node.registered()
        session = world.controller.presence.of(node_id)
        assert session is not None
        eio_sid = world_socket(world).manager.eio_sid_from_sid(session.sid, "/ws/node")
        await world_socket(world).eio.disconnect(eio_sid)
        await eventually(lambda: len(node.bodies("connection.ack")) == 2)
        await node.send("node.register", {"data": FACTS})
        assert (await node.next("register.ack", lambda body: body["data"]["epoch"] == 2))["data"]["nodeId"] == node_id


def world_socket(world: World) -> Any:
    return world.controller.channel.server


async def status_is(world: World, node_id: str, status: str) -> bool:
    return bool((await world.call("GET", f"/api/v1/nodes/{node_id}", expect=200))["status"] == status)


@pytest.mark.parametrize("bare", [False, True], ids=["with their envelope", "as bare data"])
async def test_the_source_s_frames_are_taken_without_a_complaint(world: World, modules: Path, bare: bool) -> None:
    node_id = await a_node_record(world)
    async with npm_node(world, modules, auth={"token": await token_of(world, node_id)}) as node:
        await node.registered()
        for frame in FRAMES:
            await node.send(frame["type"], frame["data"] if bare else frame)
        await eventually(lambda: uptime_is(world, node_id, 86_400))
        await eventually(lambda: has_gpu(world, node_id))
        assert node.bodies("error") == []
    await eventually(lambda: status_is(world, node_id, "offline"))


async def uptime_is(world: World, node_id: str, seconds: float) -> bool:
    return bool((await world.call("GET", f"/api/v1/nodes/{node_id}"))["uptimeSeconds"] == seconds)


async def has_gpu(world: World, node_id: str) -> bool:
    devices: Any = (await world.call("GET", f"/api/v1/nodes/{node_id}"))["gpuDevices"]
    return [(each["deviceId"], each["temperature"], each["memoryFree"]) for each in devices] == [("0", 72, 8192)]


async def a_token(world: World, kind: str) -> str | None:
    tokens, node_id = world.infra.tokens, await a_node_record(world)
    if kind == "a user's":
        return world.http.headers["Authorization"].removeprefix("Bearer ")
    if kind == "expired":
        return tokens.issue(PrincipalKind.NODE, node_id, expires_in=-3600)[0]
    if kind == "of nobody":
        return tokens.issue(PrincipalKind.NODE, "node-0", expires_in=60)[0]
    token = await token_of(world, node_id)
    if kind == "of a deleted node":
        await world.call("DELETE", f"/api/v1/nodes/{node_id}", expect=204)
    if kind == "of a node without a role":
        record = await world.infra.store.get(NODES, node_id)
        assert record is not None
        version = int(str(record["version"]))
        changed = {**record, "role": [], "version": version + 1}
        assert await world.infra.store.replace(NODES, changed, version=version)
    return {"none": None, "nonsense": "not.a.token"}.get(kind, token)


REFUSALS = {
    "none": "TOKEN_MISSING",
    "nonsense": "TOKEN_INVALID",
    "a user's": "TOKEN_INVALID",
    "expired": "TOKEN_EXPIRED",
    "of nobody": "NODE_NOT_FOUND",
    "of a deleted node": "NODE_INACTIVE",
    "of a node without a role": "ROLE_MISSING",
}


@pytest.mark.parametrize(("kind", "code"), REFUSALS.items(), ids=REFUSALS.keys())
async def test_a_refused_worker_sees_the_code_as_the_error_s_message(
    world: World, modules: Path, kind: str, code: str
) -> None:
    token = await a_token(world, kind)
    async with npm_node(world, modules, auth={} if token is None else {"token": token}) as node:
        error = await node.next("connect_error")
        assert error["message"] == error["data"]["code"] == code
        assert error["data"].keys() == {"code", "message"}
        assert error["data"]["message"].startswith("cannot ")
        assert node.bodies("connection.ack") == []


async def test_what_cannot_be_read_is_answered_and_the_worker_stays(world: World, modules: Path) -> None:
    async with npm_node(world, modules, auth={"token": await token_of(world, await a_node_record(world))}) as node:
        await node.send("telemetry.weather", {"messageId": "msg-1", "data": {}})
        await node.send("telemetry.heartbeat", {"messageId": "msg-2", "data": {"status": "splendid"}})
        unknown = await node.next("error", lambda body: body["data"]["originalMessageId"] == "msg-1")
        invalid = await node.next("error", lambda body: body["data"]["originalMessageId"] == "msg-2")
        assert (unknown["data"]["code"], invalid["data"]["code"]) == ("MESSAGE_UNKNOWN", "MESSAGE_INVALID")
        await node.registered()
        assert node.bodies("disconnect") == []


async def test_a_worker_is_told_to_deploy_says_that_it_runs_and_is_told_to_stop(world: World, modules: Path) -> None:
    node_id = await a_node_record(world)
    async with npm_node(world, modules, auth={"token": await token_of(world, node_id)}) as node:
        await node.registered()
        await node.answer(await node.next("command.healthCheck"), {"status": "healthy", "replicas": []})
        body = {"name": "whisper", "modelId": await ready_model(world)}
        made = await world.call("POST", "/api/v1/deployments", json=body, expect=201)
        deployment_id = str(made["deploymentId"])
        order = await node.next("command.deploy")
        assert {"deploymentId", "modelId", "containerId", "gpuDeviceId"} <= order["data"].keys()
        assert (order["data"]["deploymentId"], order["data"]["modelId"]) == (deployment_id, body["modelId"])
        await node.answer(order, {})
        # As the source has it: without a replicaId.
        news = {"deploymentId": deployment_id, "status": "running", "endpoint": "http://192.168.1.100:8000"}
        await node.send("deployment.status", {"type": "deployment.status", "data": news})
        await eventually(lambda: runs(world, deployment_id, "running"))
        shown: Any = await world.call("GET", f"/api/v1/deployments/{deployment_id}", expect=200)
        (replica,) = shown["replicaStatus"]
        assert (replica["nodeId"], replica["endpoint"]) == (node_id, "http://192.168.1.100:8000")
        await world.call("POST", f"/api/v1/deployments/{deployment_id}/stop", json={}, expect=202)
        stop = await node.next("command.stop")
        assert stop["data"]["deploymentId"] == deployment_id
        await node.answer(stop, {})
        await eventually(lambda: runs(world, deployment_id, "stopped"))
        assert node.bodies("error") == []


async def runs(world: World, deployment_id: str, status: str) -> bool:
    return bool((await world.call("GET", f"/api/v1/deployments/{deployment_id}", expect=200))["status"] == status)


async def test_a_health_check_of_a_deployment_sets_when_it_was_last_looked_at(world: World, modules: Path) -> None:
    async with npm_node(world, modules, auth={"token": await token_of(world, await a_node_record(world))}) as node:
        await node.registered()
        await node.answer(await node.next("command.healthCheck"), {"status": "healthy", "replicas": []})
        body = {"name": "whisper", "modelId": await ready_model(world)}
        deployment_id = str((await world.call("POST", "/api/v1/deployments", json=body, expect=201))["deploymentId"])
        order = await node.next("command.deploy")
        await node.answer(order, {})
        replica = {name: order["data"][name] for name in ("deploymentId", "replicaId", "generation")}
        await node.send("node.register", {"data": {**FACTS, "replicas": [{**replica, "state": "running"}]}})
        asked = await node.next("command.healthCheck", lambda body: body != node.bodies("command.healthCheck")[0])
        healthy = {**replica, "state": "running", "health": "healthy"}
        await node.answer(asked, {"status": "healthy", "replicas": [healthy]})
        await eventually(lambda: checked(world, deployment_id))


async def checked(world: World, deployment_id: str) -> bool:
    return (await world.call("GET", f"/api/v1/deployments/{deployment_id}"))["lastHealthCheck"] is not None
