"""The daemon's end of the node channel: one connection at a time, made again for ever, gently."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import get_args
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import socketio
import socketio.exceptions
from pydantic import ValidationError

from aiwm.daemon.credential import Credential
from aiwm.daemon.tally import Tally
from aiwm.kit.backoff import delays
from aiwm.kit.clock import Clock, iso
from aiwm.kit.context import correlation_id
from aiwm.kit.trust import distrusted
from aiwm.protocol import node_channel as channel
from aiwm.protocol.base import Wire

log = logging.getLogger(__name__)

_FIRST_DELAY, _LONGEST_DELAY = 2.0, 60.0
_HANDSHAKE_SECONDS = 15.0
_REFUSALS = frozenset(get_args(channel.RefusalCode))
_TOKEN_REFUSALS = frozenset({"TOKEN_INVALID", "TOKEN_EXPIRED"})


class LinkRefused(Exception):
    """The controller does not let this node in; trying soon again is of no use."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def base_url(controller_url: str) -> str:
    """`http(s)://host[:port][/path]` from any form a user may give: ws(s), with or without `/ws/node`."""
    parts = urlsplit(controller_url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    path = parts.path.rstrip("/").removesuffix(channel.NAMESPACE)
    return urlunsplit((scheme, parts.netloc, path, "", ""))


class Link:
    """Keeps the node connected and registered while `run` runs.

    `inventory` is called at each registration and says everything the node has and runs; `receive` gets every message
    but the handshake's, in order. What is sent while there is no connection is lost: the next registration says it all.
    """

    def __init__(
        self,
        url: str,
        credential: Credential,
        *,
        clock: Clock,
        inventory: Callable[[], channel.NodeRegister],
        receive: Callable[[str, object], None],
        registered: Callable[[channel.ControllerInfo], None],
        tally: Tally,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._url, self._credential, self._clock, self._trust = url, credential, clock, trust
        self._inventory, self._receive, self._registered = inventory, receive, registered
        self._tally = tally
        self._sending = asyncio.Lock()
        self._session: _Session | None = None

    async def run(self) -> None:
        """Connects, registers, waits for the end, and begins again; returns only by cancellation."""
        pauses = delays(_FIRST_DELAY, _LONGEST_DELAY)
        refused = delays(_LONGEST_DELAY, _LONGEST_DELAY)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._trust or True)) as http:
            while True:
                try:
                    if await self._attend(http):
                        pauses = delays(_FIRST_DELAY, _LONGEST_DELAY)
                    pause = next(pauses)
                    log.warning("the link to %s ended; next attempt in %.0f s", self._url, pause)
                except LinkRefused as error:
                    pause = next(refused)
                    if error.code in _TOKEN_REFUSALS:
                        self._credential.refused()
                    log.warning("the controller refused this node: %s; next attempt in %.0f s", error, pause)
                except (socketio.exceptions.SocketIOError, aiohttp.ClientError, TimeoutError, OSError) as error:
                    pause = next(pauses)
                    cause = distrusted(error) or error
                    log.warning(
                        "cannot reach the controller at %s: %s; next attempt in %.0f s", self._url, cause, pause
                    )
                await self._clock.sleep(pause)

    async def _attend(self, http: aiohttp.ClientSession) -> bool:
        """One connection from its beginning to its end; True when the node was registered on it."""
        session = _Session(self, http)
        try:
            # The library bounds only its own part: a connection that is taken and never answered would be waited for.
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await session.connect(self._url, self._credential.token)
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await session.first_of(session.welcomed)
                await self._register(session)
                await session.first_of(session.accepted)
            await session.ended.wait()
        finally:
            self._session, self._tally.connected = None, False
            await session.close()
        return session.accepted.is_set()

    async def _register(self, session: "_Session") -> None:
        async with self._sending:
            body = channel.envelope(channel.NODE_REGISTER, self._inventory(), now=self._clock.now())
            await session.emit(channel.NODE_REGISTER, body)
            # From here on changes are told by themselves, behind the inventory that does not have them.
            self._session = session

    async def send(self, type_: str, data: Wire, *, generation: int | None = None) -> bool:
        """Sends a message with the current correlation id; False when there is no connection."""
        async with self._sending:
            session = self._session
            if session is None or session.ended.is_set():
                return False
            metadata = channel.Metadata(correlation_id=correlation_id(), epoch=session.epoch, generation=generation)
            try:
                await session.emit(type_, channel.envelope(type_, data, now=self._clock.now(), metadata=metadata))
            except (socketio.exceptions.SocketIOError, aiohttp.ClientError, OSError):
                return False
            self._tally.sent += 1
            return True

    def arrived(self, session: "_Session", event: str, body: object) -> None:
        """A message from the controller, on `session`."""
        if event == channel.CONNECTION_ACK:
            session.welcomed.set()
        elif event == channel.REGISTER_ACK:
            self._accepted(session, body)
        elif event == channel.TOKEN_RENEWED:
            self._renewed(body)
        elif event == channel.ERROR:
            log.warning("the controller complains about this node", extra={"answer": body})
        else:
            self._receive(event, body)

    def _renewed(self, body: object) -> None:
        try:
            renewed = channel.TokenRenewed.model_validate(channel.Envelope.model_validate(body).data)
        except ValidationError as error:
            log.warning("cannot read the controller's token.renewed: %s", error.error_count())
            return
        self._credential.renewed(renewed.token)
        log.info("the token was renewed", extra={"expiresAt": iso(renewed.expires_at)})

    def _accepted(self, session: "_Session", body: object) -> None:
        try:
            ack = channel.RegisterAck.model_validate(channel.Envelope.model_validate(body).data)
        except ValidationError as error:
            log.warning("cannot read the controller's register.ack: %s", error)
            return
        session.epoch = ack.epoch
        session.accepted.set()
        self._tally.connected, self._tally.registrations = True, self._tally.registrations + 1
        log.info("registered as %s", ack.node_id, extra={"epoch": ack.epoch})
        self._registered(ack.controller_info)


class _Client(socketio.AsyncClient):  # type: ignore[misc]
    """Tells `ended` of every end: the library itself is silent about one that comes before a connect was accepted."""

    def __init__(self, ended: asyncio.Event, **options: object) -> None:
        super().__init__(**options)
        self._ended = ended

    async def _handle_eio_disconnect(self, reason: object) -> None:
        self._ended.set()
        await super()._handle_eio_disconnect(reason)


class _Session:
    """One connection. The library's own reconnection is off: it gives up after a disconnect by the server."""

    def __init__(self, link: Link, http: aiohttp.ClientSession) -> None:
        self.epoch: int | None = None
        self.welcomed, self.accepted, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._refusal: LinkRefused | None = None
        self._client = _Client(self.ended, reconnection=False, handle_sigint=False, http_session=http)
        self._client.on("connect_error", self._refused, namespace=channel.NAMESPACE)
        self._client.on("disconnect", self._disconnected, namespace=channel.NAMESPACE)
        self._client.on("*", lambda event, body=None: link.arrived(self, event, body), namespace=channel.NAMESPACE)

    async def connect(self, url: str, token: str) -> None:
        """Returns once the controller has let this node in."""
        dialling = asyncio.create_task(
            self._client.connect(
                url,
                auth={"token": token},
                namespaces=[channel.NAMESPACE],
                transports=["websocket"],
                wait_timeout=_HANDSHAKE_SECONDS,
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
        await self._client.disconnect()

    def _refused(self, answer: object = None) -> None:
        data = answer.get("data") if isinstance(answer, dict) else None
        code = data.get("code") if isinstance(data, dict) else None
        if isinstance(data, dict) and code in _REFUSALS:
            self._refusal = LinkRefused(str(code), str(data.get("message", "")))

    def _disconnected(self, *_reason: object) -> None:
        self.ended.set()
