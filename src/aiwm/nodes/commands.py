"""Commands to nodes: each is acknowledged within seconds and ends in one result, or in a reason why not."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiwm.kit.clock import Clock
from aiwm.kit.context import correlation_id
from aiwm.nodes.presence import Presence, Session
from aiwm.protocol.base import Wire
from aiwm.protocol.errors import AiwmError, TimedOut, Unavailable
from aiwm.protocol.node_channel import ACK_TIMEOUT_SECONDS, CommandAck, CommandResult, Metadata, envelope

log = logging.getLogger(__name__)

Emit = Callable[[str, dict[str, object], str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Order:
    """A command as it is asked for; `timeout` in seconds, from its acknowledgement to its result."""

    type: str
    data: Wire
    timeout: float
    generation: int | None


Forward = Callable[[Session, Order], Awaitable[dict[str, object]]]
"""Has another controller send a command to the node whose session it holds, with the same outcome as here."""


class CommandFailed(AiwmError):
    """The node answered with an error; `code` is the node's."""

    status, title, default_code = 502, "The node refused", "INTERNAL_ERROR"

    def __init__(self, message: str, *, code: str, retryable: bool) -> None:
        super().__init__(message, code=code)
        self.retryable = retryable


@dataclass(slots=True)
class _Pending:
    session: Session
    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)
    result: "asyncio.Future[CommandResult]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Commands:
    """`emit(event, message, sid)` sends one message to one connection."""

    def __init__(self, presence: Presence, clock: Clock, emit: Emit) -> None:
        self._presence, self._clock, self._emit = presence, clock, emit
        self._pending: dict[str, _Pending] = {}
        self._forward: Forward | None = None

    def forward(self, forward: Forward) -> None:
        """Names who reaches nodes that other controllers hold."""
        self._forward = forward

    async def call(
        self, node_id: str, type_: str, data: Wire, *, timeout: float, generation: int | None = None
    ) -> dict[str, object]:
        """Sends a command and waits for its result, `timeout` seconds at most.

        Raises `Unavailable` NODE_OFFLINE, `TimedOut`, or `CommandFailed` with the node's own code.
        """
        session = self._presence.of(node_id)
        if session is None:
            raise offline(node_id, "it is not connected")
        order = Order(type_, data, timeout, generation)
        if session.holder is None:
            return await self.send(session, order)
        if self._forward is None:
            raise offline(node_id, "another controller holds its connection")
        return await self._forward(session, order)

    async def send(self, session: Session, order: Order) -> dict[str, object]:
        """Sends a command over a connection of this controller; raises as `call` does."""
        about = Metadata(correlation_id=correlation_id(), epoch=session.epoch, generation=order.generation)
        message = envelope(order.type, order.data, now=self._clock.now(), metadata=about)
        message_id = str(message["messageId"])
        pending = self._pending[message_id] = _Pending(session)
        log.info("command sent", extra={"nodeId": session.node_id, "type": order.type, "messageId": message_id})
        try:
            await self._emit(order.type, message, session.sid)
            return _unwrapped(await self._outcome(pending, order.type, order.timeout))
        finally:
            del self._pending[message_id]

    async def _outcome(self, pending: _Pending, type_: str, timeout: float) -> CommandResult:
        node_id = pending.session.node_id
        try:
            async with asyncio.timeout(ACK_TIMEOUT_SECONDS):
                await pending.acknowledged.wait()
        except TimeoutError as error:
            raise TimedOut(
                f"cannot tell what became of {type_}: node {node_id} did not acknowledge it in time"
            ) from error
        try:
            async with asyncio.timeout(timeout):
                return await pending.result
        except TimeoutError as error:
            raise TimedOut(f"cannot tell what became of {type_}: node {node_id} sent no result in time") from error

    def acknowledged(self, session: Session, ack: CommandAck) -> None:
        """The node has the command."""
        pending = self._pending.get(ack.original_message_id)
        if pending is not None and pending.session is session:
            pending.acknowledged.set()

    def ended(self, session: Session, result: CommandResult) -> None:
        """The node is done with the command."""
        pending = self._pending.get(result.original_message_id)
        if pending is not None and pending.session is session and not pending.result.done():
            pending.acknowledged.set()
            pending.result.set_result(result)

    def lost(self, session: Session) -> None:
        """The connection is gone: what it owed will not come."""
        for pending in self._pending.values():
            if pending.session is session and not pending.result.done():
                pending.acknowledged.set()
                pending.result.set_exception(offline(session.node_id, "the connection was lost"))


def offline(node_id: str, cause: str) -> Unavailable:
    """No command reaches the node."""
    return Unavailable(f"cannot reach node {node_id}: {cause}", code="NODE_OFFLINE")


def _unwrapped(result: CommandResult) -> dict[str, object]:
    if result.status == "error":
        error = result.error
        code, message = (error.code, error.message) if error else ("INTERNAL_ERROR", "the node gave no reason")
        raise CommandFailed(message, code=code, retryable=bool(error and error.retryable))
    return result.result or {}
