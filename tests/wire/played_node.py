"""A node played by hand over a plain Socket.IO client: what a client written from the source document would do."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import socketio

from aiwm.testing.world import World, eventually

NAMESPACE = "/ws/node"


@dataclass
class PlayedNode:
    """`received` is every event as it came: its name and its body."""

    client: Any
    received: list[tuple[str, Any]] = field(default_factory=list)

    async def send(self, event: str, *body: object) -> None:
        await self.client.emit(event, body[0] if len(body) == 1 else body, namespace=NAMESPACE)

    def bodies(self, event: str) -> list[Any]:
        return [body for name, body in self.received if name == event]

    async def next(self, event: str, which: Callable[[Any], bool] = lambda body: True) -> Any:
        """The first `event` of that kind, waited for."""
        await eventually(lambda: any(which(body) for body in self.bodies(event)))
        return next(body for body in self.bodies(event) if which(body))


async def token_of(world: World, node_id: str) -> str:
    return str((await world.call("POST", f"/api/v1/nodes/{node_id}/token", json={}, expect=200))["token"])


async def a_node_record(world: World, name: str = "played") -> str:
    return str((await world.call("POST", "/api/v1/nodes", json={"name": name}, expect=201))["nodeId"])


@asynccontextmanager
async def played(
    world: World, token: object, *, url: str = "", instance: str | None = None, **headers: str
) -> AsyncIterator[PlayedNode]:
    """A connected node, by way of `url` if given; what refuses it is in `received` as its `connect_error`."""
    client = socketio.AsyncClient(reconnection=False)
    node = PlayedNode(client)
    client.on("*", lambda event, *body: node.received.append((event, body[0] if body else None)), namespace=NAMESPACE)
    client.on("connect_error", lambda body=None: node.received.append(("connect_error", body)), namespace=NAMESPACE)
    auth = {} if token is None else {"token": token}
    if instance is not None:
        auth["instance"] = instance
    try:
        try:
            await client.connect(
                url or world.url, auth=auth, namespaces=[NAMESPACE], transports=["websocket"], headers=headers
            )
        except socketio.exceptions.ConnectionError:
            await eventually(lambda: bool(node.bodies("connect_error")))
        yield node
    finally:
        await client.shutdown()
