"""Live events: one connection to NOTI that comes back by itself, and knows what it missed."""

import asyncio
import base64
import contextlib
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from pydantic import ValidationError

from aiwm.kit.backoff import delays
from aiwm.kit.trust import distrusted
from aiwm.protocol.errors import AiwmError, Unauthenticated, Unavailable
from aiwm.protocol.notifications import NAMESPACE, Connected, Delivery, Refusal

log = logging.getLogger(__name__)

Refresh = Callable[[], Awaitable[str]]

_CONNECT_SECONDS = 10.0
_FIRST_DELAY, _MOST_DELAY = 0.5, 30.0
_RENEW_AFTER, _LEAST_PAUSE = 0.8, 1.0


@dataclass(frozen=True, slots=True)
class Gap:
    """Notifications that did not arrive live: those between `after` and `before`, or an unknown number (None)."""

    epoch: str
    after: int
    before: int | None


class Live:
    """The caller's events as they happen: `async with Live(...) as live: async for name, delivery in live: ...`

    Entering it connects (raises `Unavailable`, `Unauthenticated`); a connection lost later is made again without end,
    with jittered pauses from 0.5 to 30 s. `gaps` says what was missed; the inbox over REST has it all. `refresh` is
    asked for another token before the present one expires, and the connection goes on with it.
    """

    def __init__(
        self, noti_url: str, token: str, *, refresh: Refresh | None = None, trust: ssl.SSLContext | None = None
    ) -> None:
        self.noti_url = noti_url.rstrip("/")
        self.gaps: list[Gap] = []
        self.connected: Connected | None = None
        self._token, self._refresh, self._trust = token, refresh, trust
        self._events: asyncio.Queue[tuple[str, Delivery] | AiwmError] = asyncio.Queue()
        self._epoch: str | None = None
        self._seq = 0
        self._refusal: Refusal | None = None
        self._welcome, self._lost = asyncio.Event(), asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._socket: Any = None
        self._keeping: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._trust or True))
        try:
            await self._connect_once()
        except BaseException:
            await self._close()
            raise
        self._keeping = asyncio.create_task(self._keep(), name="live-events")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        await self._close()

    def __aiter__(self) -> AsyncIterator[tuple[str, Delivery]]:
        return self

    async def __anext__(self) -> tuple[str, Delivery]:
        """The next event's name (as `service.event`) and what it says. Raises when the connection is refused."""
        event = await self._events.get()
        if isinstance(event, AiwmError):
            raise event
        return event

    async def _keep(self) -> None:
        """Connects again whenever the connection is lost; ends when the server refuses us for good."""
        pauses = delays(_FIRST_DELAY, _MOST_DELAY)
        while True:
            await self._lost.wait()
            await asyncio.sleep(next(pauses))
            try:
                await self._connect_once()
            except AiwmError as error:
                if not error.retryable:
                    self._events.put_nowait(error)
                    return
                log.debug("live events are away: %s", error)
                continue
            pauses = delays(_FIRST_DELAY, _MOST_DELAY)

    async def _renew(self, socket: Any, refresh: Refresh) -> None:
        """Renews the token on the connection; where that fails, the server ends it and a new one is made."""
        from socketio.exceptions import SocketIOError

        while (left := _seconds_left(self._token)) is not None:
            await asyncio.sleep(max(left * _RENEW_AFTER, _LEAST_PAUSE))
            try:
                self._token = await refresh()
                answer = await socket.call("token.renew", {"token": self._token}, namespace=NAMESPACE)
            except (AiwmError, SocketIOError) as error:
                log.debug("the token was not renewed on the connection: %s", error)
                return
            if not isinstance(answer, dict) or answer.get("ok") is not True:
                log.debug("the token was not renewed on the connection: %s", answer)
                return

    async def _connect_once(self) -> None:
        await self._disconnect()
        try:
            await self._dial()
        except Unauthenticated as error:
            if error.code != "TOKEN_EXPIRED" or self._refresh is None:
                raise
            self._token = await self._refresh()
            await self._dial()

    async def _dial(self) -> None:
        # Imported only now: it costs a fifth of a second, and most commands never listen.
        import socketio

        self._refusal = None
        self._welcome.clear()
        self._lost.clear()
        socket = socketio.AsyncClient(reconnection=False, http_session=self._session, handle_sigint=False)
        socket.on("connected", self._on_connected, namespace=NAMESPACE)
        socket.on("connect_error", self._on_refused, namespace=NAMESPACE)
        socket.on("disconnect", self._on_lost, namespace=NAMESPACE)
        socket.on("resync", self._on_resync, namespace=NAMESPACE)
        socket.on("*", self._on_event, namespace=NAMESPACE)
        self._socket = socket
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await socket.connect(
                    self.noti_url, auth=self._auth(), namespaces=[NAMESPACE], transports=["websocket"], wait=True
                )
                await self._welcome.wait()
            if self._refresh is not None:
                self._renewing = asyncio.create_task(self._renew(socket, self._refresh), name="live-renewal")
        except (socketio.exceptions.ConnectionError, TimeoutError, OSError) as error:
            self._lost.set()
            await self._disconnect()
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> AiwmError:
        if self._refusal is not None and self._refusal.code.startswith("TOKEN_"):
            return Unauthenticated(self._refusal.message, code=self._refusal.code)
        if (doubt := distrusted(error)) is not None:
            return Unavailable(f"cannot reach {self.noti_url}: {doubt}", code="CERTIFICATE_REFUSED")
        cause = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        return Unavailable(f"cannot reach {self.noti_url}: {cause}; is NOTI running there?", code="UNREACHABLE")

    def _auth(self) -> dict[str, object]:
        auth: dict[str, object] = {"token": self._token}
        if self._epoch is not None:
            auth["since"] = {"epoch": self._epoch, "seq": self._seq}
        return auth

    async def _on_connected(self, body: object) -> None:
        self.connected = Connected.model_validate(body)
        if self._epoch != self.connected.epoch:
            if self._epoch is not None:
                self.gaps.append(Gap(self._epoch, self._seq, None))
            self._epoch, self._seq = self.connected.epoch, self.connected.last_seq
        self._welcome.set()

    async def _on_refused(self, body: object = None) -> None:
        detail = body.get("data") if isinstance(body, dict) else None
        message = body.get("message") if isinstance(body, dict) else str(body)
        try:
            self._refusal = Refusal.model_validate(detail)
        except ValidationError:
            self._refusal = Refusal(code=str(message), message=f"cannot connect to {self.noti_url}: {message}")

    async def _on_lost(self, *_reason: object) -> None:
        self._lost.set()

    async def _on_resync(self, *_body: object) -> None:
        if self._epoch is not None:
            self.gaps.append(Gap(self._epoch, self._seq, None))

    async def _on_event(self, event: str, *body: object) -> None:
        try:
            delivery = Delivery.model_validate(body[0] if body else None)
        except ValidationError:
            log.debug("event %s is not a notification", event)
            return
        place = delivery.notification_metadata
        if place.epoch == self._epoch and place.seq > self._seq + 1:
            self.gaps.append(Gap(place.epoch, self._seq, place.seq))
        self._epoch, self._seq = place.epoch, place.seq
        self._events.put_nowait((event, delivery))

    async def _disconnect(self) -> None:
        socket, self._socket = self._socket, None
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing
        if socket is not None:
            await socket.disconnect()

    async def _close(self) -> None:
        await self._disconnect()
        if self._session is not None:
            await self._session.close()
            self._session = None


def _seconds_left(token: str) -> float | None:
    """How long a JWT is good by this machine's clock; None for what is none, as an API key."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"]) - time.time()
    except (IndexError, ValueError, KeyError, TypeError):
        return None
