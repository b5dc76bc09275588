"""A node that writes its frames by hand, so that they may be cut, nested, swollen or mere noise."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from aiwm.testing.world import World

_SECONDS = 10.0


@dataclass
class RawNode:
    """A websocket that speaks Engine.IO and Socket.IO only where it is told to."""

    socket: aiohttp.ClientWebSocketResponse

    async def text(self, frame: str) -> None:
        """Sends a frame as it is; one that can no longer be sent is lost, as on any dead connection."""
        if not self.socket.closed:
            try:
                await self.socket.send_str(frame)
            except aiohttp.ClientConnectionError:
                return

    async def event(self, name: str, body: object) -> None:
        await self.text(event(name, body))

    async def next(self, name: str, within: float = _SECONDS) -> Any:
        """The next event of that name; pings are answered meanwhile."""
        async with asyncio.timeout(within):
            while True:
                message = await self.socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT or message.data == "1":
                    raise ConnectionError(f"the connection ended: {message.type.name} {message.data}")
                if message.data == "2":
                    await self.text("3")
                prefix, _, payload = str(message.data).partition(",")
                if prefix == "42/ws/node" and json.loads(payload)[0] == name:
                    return json.loads(payload)[1]

    async def lasts(self, within: float = _SECONDS) -> bool:
        """Whether the connection still answers."""
        await self.event("node.unheard", {"data": {}})
        try:
            await self.next("error", within)
        except (ConnectionError, TimeoutError):
            return False
        return True


def event(name: str, body: object) -> str:
    """An event as it goes over the wire."""
    return f"42/ws/node,{json.dumps([name, body])}"


@asynccontextmanager
async def raw_node(world: World, token: str) -> AsyncIterator[RawNode]:
    """Connected, with the controller's `connection.ack` read."""
    url = f"{world.url}/socket.io/?EIO=4&transport=websocket"
    async with aiohttp.ClientSession() as http, http.ws_connect(url, max_msg_size=0, autoclose=True) as socket:
        node = RawNode(socket)
        assert (await socket.receive_str(timeout=_SECONDS)).startswith("0")
        await node.text(f"40/ws/node,{json.dumps({'token': token})}")
        await node.next("connection.ack")
        yield node
