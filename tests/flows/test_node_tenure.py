"""A node's connection obeys: revoked, deleted and expired tokens end it, a token near its end is renewed on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import socketio
from socketio.exceptions import ConnectionError as Refused

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.kit.settings import Settings
from aiwm.protocol.errors import Unauthenticated
from aiwm.protocol.node_channel import NAMESPACE
from aiwm.protocol.states import PrincipalKind
from aiwm.testing.world import World, eventually, open_world


@dataclass
class Node:
    """A bare client of the node channel and what it heard."""

    client: socketio.AsyncClient
    events: list[tuple[str, Any]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)

    def named(self, event: str) -> list[Any]:
        return [body["data"] for name, body in self.events if name == event]


@asynccontextmanager
async def dialled(world: World, token: str) -> AsyncIterator[Node]:
    node = Node(socketio.AsyncClient(reconnection=False))
    node.client.on("*", lambda name, body: node.events.append((name, body)), namespace=NAMESPACE)
    node.client.on("disconnect", lambda *_: node.ended.append(True), namespace=NAMESPACE)
    try:
        await node.client.connect(world.url, auth={"token": token}, namespaces=[NAMESPACE], transports=["websocket"])
        await eventually(lambda: bool(node.events))
        yield node
    finally:
        await node.client.shutdown()


async def refused(world: World, token: str) -> str:
    client = socketio.AsyncClient(reconnection=False)
    codes: list[str] = []
    client.on("connect_error", lambda body: codes.append(body["message"]), namespace=NAMESPACE)
    try:
        with pytest.raises(Refused):
            await client.connect(world.url, auth={"token": token}, namespaces=[NAMESPACE], transports=["websocket"])
    finally:
        await client.shutdown()
    return codes[0]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as found:
        yield found


@pytest.fixture
async def node_id(world: World) -> str:
    return str((await world.call("POST", "/api/v1/nodes", json={"name": "n"}, expect=201))["nodeId"])


async def a_token(world: World, node_id: str) -> str:
    return str((await world.call("POST", f"/api/v1/nodes/{node_id}/token", json={}, expect=200))["token"])


async def test_a_revoked_node_is_told_why_and_disconnected_and_only_a_newer_token_opens(
    world: World, node_id: str
) -> None:
    old = await a_token(world, node_id)
    async with dialled(world, old) as node:
        await world.call("POST", f"/api/v1/nodes/{node_id}/revoke", expect=200)
        await eventually(lambda: bool(node.ended))
        assert [each["code"] for each in node.named("error")] == ["TOKEN_INVALID"]
    assert await refused(world, old) == "TOKEN_INVALID"
    async with dialled(world, await a_token(world, node_id)) as node:
        assert node.events[0][0] == "connection.ack"


async def test_a_node_deleted_in_another_process_is_disconnected_at_the_next_look(world: World, node_id: str) -> None:
    async with dialled(world, await a_token(world, node_id)) as node:
        await world.controller.channel.look()
        assert not node.ended
        nodes = world.controller.nodes
        await nodes.delete(nodes.record(node_id), by=None)
        await world.controller.channel.look()
        await eventually(lambda: bool(node.ended))
        assert [each["code"] for each in node.named("error")] == ["NODE_INACTIVE"]


async def test_a_token_near_its_end_is_renewed_on_the_connection_and_the_new_one_opens(
    world: World, node_id: str
) -> None:
    tokens = world.infra.tokens
    short = tokens.issue(PrincipalKind.NODE, node_id, expires_in=4)[0]
    async with dialled(world, short) as node:

        async def renewed() -> bool:
            await world.controller.channel.look()
            return bool(node.named("token.renewed"))

        assert not await renewed()
        await eventually(renewed)
        assert len(node.named("token.renewed")) == 1
        fresh = node.named("token.renewed")[0]["token"]
        claims = tokens.verify(fresh, PrincipalKind.NODE)
        assert claims.subject == node_id
    async with dialled(world, fresh):
        pass


async def test_a_connection_whose_token_has_expired_ends(world: World, node_id: str) -> None:
    async with dialled(world, await a_token(world, node_id)) as node:
        channel = world.controller.channel
        sid = node.client.get_sid(NAMESPACE)
        held = channel._held[sid]
        channel._held[sid] = type(held)(held.issued_at, world.infra.clock.now())
        await channel.look()
        await eventually(lambda: bool(node.ended))
        assert [each["code"] for each in node.named("error")] == ["TOKEN_EXPIRED"]


async def test_what_is_renewed_while_a_node_is_revoked_is_refused(world: World, node_id: str) -> None:
    nodes, before = world.controller.nodes, world.infra.clock.now()
    record = nodes.record(node_id)
    _, held = await nodes.authenticate(await a_token(world, node_id))
    await nodes.revoke(record, by=None)
    token, _ = nodes.renewed(record, held, now=before)
    assert await refused(world, token.token) == "TOKEN_INVALID"


async def test_a_daemon_keeps_the_renewed_token_and_shows_it_when_it_returns(world: World, node_id: str) -> None:
    short = world.infra.tokens.issue(PrincipalKind.NODE, node_id, expires_in=4)[0]
    settings = replace(world.infra.settings, data_dir=world.folder / "d", controller_url=world.url, node_token=short)
    kept = settings.data_dir / "node" / "renewed-token"
    async with running(settings, world, node_id):
        await eventually(kept.exists)
    await eventually(lambda: _expired(world, short))
    async with running(settings, world, node_id):
        pass


def _expired(world: World, token: str) -> bool:
    try:
        world.infra.tokens.verify(token, PrincipalKind.NODE)
    except Unauthenticated as error:
        return error.code == "TOKEN_EXPIRED"
    return False


@asynccontextmanager
async def running(settings: Settings, world: World, node_id: str) -> AsyncIterator[None]:
    """A daemon that is connected."""
    daemon = Daemon(settings, launcher=FakeLauncher())
    task = asyncio.create_task(daemon.run())
    try:
        await eventually(lambda: world.controller.presence.of(node_id) is not None)
        yield
    finally:
        daemon.stop()
        await task
    await eventually(lambda: world.controller.presence.of(node_id) is None)
