"""One connection to the controller, over a library that waits for ever and queues without bound where nobody looks."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import get_args

import aiohttp
import socketio
import socketio.exceptions

from aiwm.protocol import node_channel as channel

log = logging.getLogger(__name__)

# What becomes of a connection the link says itself; given no logger, the library says errors of its own, and twice.
_LIBRARY = log.getChild("library")
_LIBRARY.setLevel(logging.CRITICAL)

HANDSHAKE_SECONDS = 15.0
_GOODBYE_SECONDS = 2.0
_STALL_SECONDS = 4.0
_ROOM_SECONDS = 0.02
_MOST_BACKLOG = 64
_REFUSALS = frozenset(get_args(channel.RefusalCode))


class LinkRefused(Exception):
    """The controller does not let this node in; trying soon again is of no use."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class _Client(socketio.AsyncClient):  # type: ignore[misc]
    """Tells `ended` of every end: the library itself is silent about one that comes before a connect was accepted."""

    def __init__(self, ended: asyncio.Event, **options: object) -> None:
        super().__init__(**options)
        self._ended = ended

    async def _handle_eio_disconnect(self, reason: object) -> None:
        self._ended.set()
        await super()._handle_eio_disconnect(reason)


class Session:
    """One connection. The library's own reconnection is off: it gives up after a disconnect by the server.

    `arrived` gets every message on it; `wake` is set when it has ended.
    """

    def __init__(
        self, http: aiohttp.ClientSession, arrived: Callable[["Session", str, object], None], wake: asyncio.Event
    ) -> None:
        self.epoch: int | None = None
        self.welcomed, self.accepted, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._wake = wake
        self._refusal: LinkRefused | None = None
        self._behind_since: float | None = None
        self._broken = False
        self._client = _Client(
            self.ended,
            reconnection=False,
            handle_sigint=False,
            http_session=http,
            logger=_LIBRARY,
            engineio_logger=_LIBRARY,
        )
        self._client.on("connect_error", self._refused, namespace=channel.NAMESPACE)
        self._client.on("disconnect", self._disconnected, namespace=channel.NAMESPACE)
        self._client.on("*", lambda event, body=None: arrived(self, event, body), namespace=channel.NAMESPACE)

    async def connect(self, url: str, auth: dict[str, str]) -> None:
        """Returns once the controller has let this node in."""
        dialling = asyncio.create_task(
            self._client.connect(
                url,
                auth=auth,
                namespaces=[channel.NAMESPACE],
                transports=["websocket"],
                wait_timeout=HANDSHAKE_SECONDS,
            )
        )
        ended = asyncio.create_task(self.ended.wait())
        try:
            await asyncio.wait([dialling, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (dialling, ended):
                task.cancel()
            await asyncio.gather(dialling, ended, return_exceptions=True)
        if self._refusal is not None:
            raise self._refusal
        if dialling.cancelled():
            raise socketio.exceptions.ConnectionError("the connection was cut before it was accepted")
        dialling.result()

    def look(self) -> None:
        """Breaks a connection that has taken nothing for a while: the library would wait for the kernel to give up."""
        now = asyncio.get_running_loop().time()
        if self._backlog() == 0:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since >= _STALL_SECONDS and not self._broken:
            self._broken = True
            log.warning("the connection takes no more messages; it is given up")
            self._break()

    async def has_room(self) -> bool:
        """Waits until few messages are on their way into the socket; False when the connection ended first."""
        while not self.ended.is_set():
            if self._backlog() < _MOST_BACKLOG:
                return True
            self.look()
            await asyncio.sleep(_ROOM_SECONDS)
        return False

    def _backlog(self) -> int:
        return int(self._client.eio.queue.qsize()) if self._client.eio.queue is not None else 0

    def _break(self) -> None:
        line = self._client.eio.ws.get_extra_info("socket") if self._client.eio.ws is not None else None
        if line is not None:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    async def first_of(self, event: asyncio.Event) -> None:
        """Waits for `event`; a connection that ends first is an error."""
        waiting = [asyncio.create_task(each.wait()) for each in (event, self.ended)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if not event.is_set():
            raise socketio.exceptions.ConnectionError("the controller closed the connection")

    async def emit(self, type_: str, body: dict[str, object]) -> None:
        await self._client.emit(type_, body, namespace=channel.NAMESPACE)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._client.disconnect()
        except TimeoutError:
            self._break()

    def _refused(self, answer: object = None) -> None:
        data = answer.get("data") if isinstance(answer, dict) else None
        code = data.get("code") if isinstance(data, dict) else None
        if isinstance(data, dict) and code in _REFUSALS:
            self._refusal = LinkRefused(str(code), str(data.get("message", "")))

    def _disconnected(self, *_reason: object) -> None:
        self.ended.set()
        self._wake.set()
