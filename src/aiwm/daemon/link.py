"""The daemon's end of the node channel: one connection at a time, made again for ever, gently.

Nothing here grows without bound and nothing waits for ever: a socket that takes no more is given up, whoever has
something to say waits for room until then, and what may not be lost is in the outbox meanwhile.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import socketio
import socketio.exceptions
from pydantic import ValidationError

from aiwm.daemon.credential import Credential
from aiwm.daemon.outbox import Letter, Outbox
from aiwm.daemon.session import HANDSHAKE_SECONDS, LinkRefused, Session
from aiwm.daemon.sizes import MOST_MESSAGE_BYTES, weight
from aiwm.daemon.tally import Tally
from aiwm.kit.backoff import delays
from aiwm.kit.clock import Clock, iso
from aiwm.kit.context import correlation_id
from aiwm.kit.trust import distrusted
from aiwm.protocol import node_channel as channel
from aiwm.protocol.base import Wire

log = logging.getLogger(__name__)

_FIRST_DELAY, _LONGEST_DELAY = 2.0, 60.0
# Drawn from the upper half: the daemon that was replaced asks again after one to two minutes.
_REPLACED_DELAY = 120.0
_LOOK_SECONDS = 2.0
_TOKEN_REFUSALS = frozenset({"TOKEN_INVALID", "TOKEN_EXPIRED"})
_ADVICE = "; let this node in again: aiwm nodes join-token --node, or aiwm nodes token"


def base_url(controller_url: str) -> str:
    """`http(s)://host[:port][/path]` from any form a user may give: ws(s), with or without `/ws/node`."""
    parts = urlsplit(controller_url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    path = parts.path.rstrip("/").removesuffix(channel.NAMESPACE)
    return urlunsplit((scheme, parts.netloc, path, "", ""))


class Link:
    """Keeps the node connected and registered while `run` runs.

    `inventory` is called at each registration and says everything the node has and runs; `receive` gets every message
    but the handshake's, in order. What is sent while there is no connection is lost: the next registration says it all,
    but for what is posted, which is kept. `delivered` hears what of that went out. `instance` names this run of the
    daemon: by it the controller tells a daemon that returns from another one with the same identity. `readmit`
    may have another token when this node's is refused.
    """

    def __init__(
        self,
        url: str,
        credential: Credential,
        *,
        clock: Clock,
        inventory: Callable[[], Awaitable[channel.NodeRegister]],
        receive: Callable[[str, object], None],
        registered: Callable[[channel.ControllerInfo], None],
        tally: Tally,
        delivered: Callable[[Wire], None] = lambda _: None,
        instance: str,
        trust: ssl.SSLContext | None = None,
        readmit: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self._readmit = readmit
        self._url, self._credential, self._clock, self._trust = url, credential, clock, trust
        self._inventory, self._receive, self._registered = inventory, receive, registered
        self._delivered, self._instance, self._tally = delivered, instance, tally
        self._sending = asyncio.Lock()
        self._outbox = Outbox()
        self._attending: Session | None = None
        self._session: Session | None = None
        self._wake = asyncio.Event()

    @property
    def epoch(self) -> int | None:
        """The number of the present session; None while there is none."""
        return None if self._session is None else self._session.epoch

    async def run(self) -> None:
        """Connects, registers, waits for the end, and begins again; returns only by cancellation."""
        pauses = delays(_FIRST_DELAY, _LONGEST_DELAY)
        refused, replaced = delays(_LONGEST_DELAY, _LONGEST_DELAY), delays(_REPLACED_DELAY, _REPLACED_DELAY)
        while True:
            try:
                if await self._attend():
                    pauses = delays(_FIRST_DELAY, _LONGEST_DELAY)
                pause = next(pauses)
                log.warning("the link to %s ended; next attempt in %.0f s", self._url, pause)
            except LinkRefused as error:
                pause = await self._after_refusal(error, next(replaced if error.code == "NODE_REPLACED" else refused))
            except (socketio.exceptions.SocketIOError, aiohttp.ClientError, TimeoutError, OSError) as error:
                pause = next(pauses)
                cause = distrusted(error) or error
                log.warning("cannot reach the controller at %s: %s; next attempt in %.0f s", self._url, cause, pause)
            await self._clock.sleep(pause)

    async def _after_refusal(self, error: LinkRefused, pause: float) -> float:
        """Says why, and what to do; how long to wait: not at all with another token to show."""
        if await self._has_another_token(error):
            log.warning("the controller refused this node: %s; it has another token, which is shown now", error)
            return 0.0
        if error.code == "NODE_REPLACED":
            log.warning(
                "another daemon uses this node's identity and is connected in its place: give one of the two machines "
                "a node and a token of its own; engines here go on; next attempt in %.0f s",
                pause,
            )
        else:
            advice = _ADVICE if error.code in _TOKEN_REFUSALS else ""
            log.warning("the controller refused this node: %s%s; next attempt in %.0f s", error, advice, pause)
        return pause

    async def _has_another_token(self, error: LinkRefused) -> bool:
        """Whether this node was given a token since, which may be shown at once."""
        if error.code not in _TOKEN_REFUSALS:
            return False
        self._credential.refused()
        token = None if self._readmit is None else await self._readmit()
        if token is not None:
            self._credential.replaced(token)
        return token is not None

    async def _attend(self) -> bool:
        """One connection from its beginning to its end; True when the node was registered on it."""
        # A client of its own, so that nothing of a connection that went silent outlives it.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._trust or True)) as http:
            session = self._attending = Session(http, self.arrived, self._wake)
            try:
                auth = {"token": self._credential.token, "instance": self._instance}
                # The library bounds only its own part: one that is taken and never answered would be waited for.
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    await session.connect(self._url, auth)
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    await session.first_of(session.welcomed)
                    await self._register(session)
                    await session.first_of(session.accepted)
                await self._stay(session)
            finally:
                self._attending = self._session = None
                self._tally.connected = False
                self._outbox.broke(now=self._clock.monotonic())
                await session.close()
            return session.accepted.is_set()

    async def _stay(self, session: Session) -> None:
        """Until the connection ends: sends what was posted, and ends a connection that takes nothing any more."""
        while not session.ended.is_set():
            self._wake.clear()
            session.look()
            await self._deliver(session)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()

    async def _deliver(self, session: Session) -> None:
        if dropped := self._outbox.take_dropped():
            log.warning("dropped %s messages that waited for the controller: there were too many", dropped)
        while (letter := self._outbox.next()) is not None:
            about = channel.Metadata(
                correlation_id=letter.correlation_id, epoch=session.epoch, generation=letter.generation
            )
            body = channel.envelope(letter.type, letter.data, now=letter.at, metadata=about)
            async with self._sending:
                if not await self._emit(session, letter.type, body):
                    return
            self._outbox.sent(letter, now=self._clock.monotonic())
            self._delivered(letter.data)

    async def _register(self, session: Session) -> None:
        async with self._sending:
            body = channel.envelope(channel.NODE_REGISTER, await self._inventory(), now=self._clock.now())
            await session.emit(channel.NODE_REGISTER, body)
            # From here on changes are told by themselves, behind the inventory that does not have them.
            self._session = session

    async def register_again(self) -> None:
        """Says anew what this node is; without a connection the next one begins with that anyhow."""
        async with self._sending:
            if (session := self._session) is not None:
                body = channel.envelope(channel.NODE_REGISTER, await self._inventory(), now=self._clock.now())
                await self._emit(session, channel.NODE_REGISTER, body)

    async def send(self, type_: str, data: Wire, *, generation: int | None = None) -> bool:
        """Sends a message with the current correlation id; False when there is no connection."""
        async with self._sending:
            session = self._session
            if session is None:
                return False
            metadata = channel.Metadata(correlation_id=correlation_id(), epoch=session.epoch, generation=generation)
            body = channel.envelope(type_, data, now=self._clock.now(), metadata=metadata)
            return await self._emit(session, type_, body)

    def post(self, type_: str, key: str, data: Wire, *, generation: int | None = None) -> None:
        """Sends a message now or after the next registration; of one `key` only the newest, within bounds."""
        size = weight(data.to_wire())
        letter = Letter(type_, key, data, self._clock.now(), size, generation, correlation_id())
        self._outbox.put(letter)
        self._wake.set()

    async def _emit(self, session: Session, type_: str, body: dict[str, object]) -> bool:
        if (size := weight(body)) > MOST_MESSAGE_BYTES:
            log.warning("cannot send a %s of %s bytes: %s are the most", type_, size, MOST_MESSAGE_BYTES)
            return True
        if not await session.has_room():
            return False
        try:
            await session.emit(type_, body)
        except (socketio.exceptions.SocketIOError, aiohttp.ClientError, OSError):
            return False
        self._tally.sent += 1
        return True

    def arrived(self, session: Session, event: str, body: object) -> None:
        """A message from the controller; what still comes from an older connection is dropped."""
        if session is not self._attending:
            return
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

    def _accepted(self, session: Session, body: object) -> None:
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
