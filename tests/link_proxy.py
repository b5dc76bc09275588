"""A TCP proxy between a node and its controller that does to a link what networks do: cuts, silence, crawl, late ends.

It runs in the test's own loop. What it does is decided per connection, so an old connection may be dead while a new one
works; bytes are never changed.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_CHUNK = 65_536


@dataclass
class Pipe:
    """One connection through the proxy. `up` is what the client sent so far, in bytes, `down` the server.

    While `flows` is clear nothing goes either way; while `up_flows` is, nothing of the client reaches the server. An
    end of one side reaches the other when `ends` is set.
    """

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    up_flows: asyncio.Event = field(default_factory=asyncio.Event)
    ends: asyncio.Event = field(default_factory=asyncio.Event)
    up: int = 0
    down: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        for each in (self.flows, self.up_flows, self.ends):
            each.set()

    def freeze(self) -> None:
        """From now on a half-open link: both ends still have their connection, and nothing arrives."""
        self.flows.clear()

    def hold_up(self) -> None:
        """What the client sends from now on waits in the network."""
        self.up_flows.clear()

    def release(self) -> None:
        """Everything that was held goes on its way."""
        for each in (self.flows, self.up_flows, self.ends):
            each.set()

    def cut(self) -> None:
        """Both ends see a reset."""
        for writer in (self.client, self.server):
            _reset(writer)

    def cut_client(self) -> None:
        """Only the client sees a reset; the server's end goes on, and its end is held back."""
        self.ends.clear()
        _reset(self.client)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


class LinkProxy:
    """Listens on `url` and carries connections to `target`, another URL.

    `refusing`: new connections are closed at once. `chunk`, `pause`: at most so many bytes, then so many seconds of
    waiting, each way. `cut_after`: new connections are reset once the client has sent that many bytes. `deaf`: new
    connections are half-open from the start.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self.pipes: list[Pipe] = []
        self.refused = 0
        self.refusing = self.deaf = False
        self.chunk, self.pause = _CHUNK, 0.0
        self.cut_after: int | None = None
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def open_pipes(self) -> list[Pipe]:
        return [each for each in self.pipes if not each.closed]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for pipe in self.pipes:
            pipe.cut()
            pipe.release()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Every open connection is reset."""
        for pipe in self.open_pipes:
            pipe.cut()

    def freeze(self) -> None:
        """Every open connection becomes half-open; new ones work."""
        for pipe in self.open_pipes:
            pipe.freeze()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.refusing:
                self.refused += 1
                _reset(writer)
                return
            await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        pipe = Pipe(writer, server_writer)
        if self.deaf:
            pipe.freeze()
        self.pipes.append(pipe)
        ways = [
            asyncio.ensure_future(self._up(pipe, reader, self.cut_after)),
            asyncio.ensure_future(self._down(pipe, server_reader)),
        ]
        try:
            await asyncio.gather(*ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            pipe.closed = True
            pipe.cut()

    async def _up(self, pipe: Pipe, reader: asyncio.StreamReader, limit: int | None) -> None:
        async for data in self._arriving(reader):
            await pipe.up_flows.wait()
            await pipe.flows.wait()
            if limit is not None and pipe.up + len(data) >= limit:
                pipe.server.write(data[: limit - pipe.up])
                with contextlib.suppress(OSError):
                    await pipe.server.drain()
                pipe.up = limit
                pipe.cut()
                return
            pipe.up += len(data)
            await _pass(pipe.server, data)
        await pipe.ends.wait()
        await pipe.flows.wait()
        _end(pipe.server)

    async def _down(self, pipe: Pipe, reader: asyncio.StreamReader) -> None:
        async for data in self._arriving(reader):
            await pipe.flows.wait()
            pipe.down += len(data)
            await _pass(pipe.client, data)
        await pipe.flows.wait()
        _end(pipe.client)

    async def _arriving(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while True:
            try:
                data = await reader.read(self.chunk)
            except OSError:
                return
            if not data:
                return
            yield data
            if self.pause:
                await asyncio.sleep(self.pause)


async def _pass(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        return
    with contextlib.suppress(OSError):
        writer.write(data)
        await writer.drain()


def _end(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        with contextlib.suppress(OSError):
            writer.write_eof()


@asynccontextmanager
async def link_proxy(target: str) -> AsyncIterator[LinkProxy]:
    """A proxy before `target` until the end."""
    proxy = LinkProxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
