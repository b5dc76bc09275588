"""What the controller asks for: read, acknowledged at once, done once, answered by exactly one result.

A command belongs to the session it came in: one of an earlier session is dropped, and so is a result whose session has
ended, as nobody waits for it any more. How much can be under way at once is bounded.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError

from aiwm.daemon.tally import Tally
from aiwm.kit.context import accept_correlation_id, correlated
from aiwm.kit.tasks import Tasks
from aiwm.protocol import node_channel as channel
from aiwm.protocol.base import Wire
from aiwm.protocol.errors import AiwmError, Invalid, Unavailable

log = logging.getLogger(__name__)

MOST_REMEMBERED = 4096
# Two for each of the replicas a node may have. Beyond it commands are refused, and beyond twice that not even read.
MOST_UNDER_WAY = 2048

Send = Callable[[str, Wire], Awaitable[bool]]
Handler = Callable[[dict[str, object]], Awaitable[dict[str, object]]]
_Doing = Callable[[str, dict[str, object]], Awaitable[dict[str, object]]]


class Commands:
    """Turns messages into calls of `handlers`, by type. A message that was seen before is only acknowledged again.

    `epoch()` is the number of the present session.
    """

    def __init__(
        self,
        handlers: dict[str, Handler],
        send: Send,
        tasks: Tasks,
        tally: Tally,
        *,
        epoch: Callable[[], int | None] = lambda: None,
        most_under_way: int = MOST_UNDER_WAY,
    ) -> None:
        self._handlers = handlers
        self._send = send
        self._tasks = tasks
        self._tally = tally
        self._epoch = epoch
        self._most_under_way = most_under_way
        self._under_way = 0
        self._seen: OrderedDict[str, None] = OrderedDict()

    def receive(self, event: str, body: object) -> None:
        """Takes a message in; returns at once, and what it starts begins in the order of arrival."""
        if not event.startswith("command."):
            log.debug("ignored message %s", event)
            return
        try:
            message = channel.Envelope.model_validate(body)
        except ValidationError as error:
            log.warning("ignored a %s that cannot be read: %s", event, _first(error))
            return
        if self._too_late(message):
            log.warning("dropped a %s of an earlier session", event, extra={"messageId": message.message_id})
            return
        if self._under_way >= 2 * self._most_under_way:
            log.warning("dropped a %s: %s commands are under way", event, self._under_way)
            return
        offered = message.metadata.correlation_id if message.metadata else None
        doing = self._do if self._under_way < self._most_under_way else self._refuse
        self._under_way += 1
        with correlated(accept_correlation_id(offered)):
            carried = self._tasks.spawn(f"{event} {message.message_id}", self._carry_out(event, message, doing))
        carried.add_done_callback(self._done)

    def _done(self, _: object) -> None:
        self._under_way -= 1

    def _too_late(self, message: channel.Envelope) -> bool:
        sent, present = message.metadata.epoch if message.metadata else None, self._epoch()
        return sent is not None and present is not None and sent < present

    async def _carry_out(self, event: str, message: channel.Envelope, doing: _Doing) -> None:
        began = time.monotonic()
        fresh, epoch = message.message_id not in self._seen, self._epoch()
        self._remember(message.message_id)
        # Begun before the acknowledgement goes out, so that what is decided follows the order of arrival.
        work = self._tasks.spawn(f"work {message.message_id}", self._result(event, message, doing)) if fresh else None
        await self._send(channel.COMMAND_ACK, channel.CommandAck(original_message_id=message.message_id))
        if work is not None:
            result = await work
            if self._epoch() == epoch:
                await self._send(channel.COMMAND_RESULT, result)
            self._tally.commands += 1
            self._tally.command_seconds.append(time.monotonic() - began)

    async def _result(self, event: str, message: channel.Envelope, doing: _Doing) -> channel.CommandResult:
        log.info("received %s", event, extra={"messageId": message.message_id})
        try:
            result = await doing(event, message.data)
        except ValidationError as error:
            return _error(message, "COMMAND_INVALID", f"cannot read {event}: {_first(error)}", retryable=False)
        except AiwmError as error:
            log.warning("%s failed: %s", event, error.message, extra={"code": error.code})
            return _error(message, error.code, error.message, retryable=error.retryable)
        except Exception:
            # A bug in one command is said as such; the others, and the engines, go on.
            log.exception("%s failed by a bug", event)
            return _error(message, "INTERNAL_ERROR", f"cannot do {event}: internal error of the daemon", retryable=True)
        return channel.CommandResult(original_message_id=message.message_id, status="success", result=result)

    async def _do(self, event: str, data: dict[str, object]) -> dict[str, object]:
        if event not in self._handlers:
            raise Invalid(f"cannot do {event}: this daemon does not know it", code="COMMAND_INVALID")
        return await self._handlers[event](data)

    async def _refuse(self, event: str, data: dict[str, object]) -> dict[str, object]:  # noqa: ARG002 - it is not read
        raise Unavailable(
            f"cannot do {event}: {self._most_under_way} commands are under way on this node", code="RESOURCE_EXHAUSTED"
        )

    def _remember(self, message_id: str) -> None:
        self._seen[message_id] = None
        self._seen.move_to_end(message_id)
        while len(self._seen) > MOST_REMEMBERED:
            self._seen.popitem(last=False)


def _error(message: channel.Envelope, code: str, text: str, *, retryable: bool) -> channel.CommandResult:
    error = channel.CommandError(code=code, message=text[:4096], retryable=retryable)
    return channel.CommandResult(original_message_id=message.message_id, status="error", error=error)


def _first(error: ValidationError) -> str:
    found: dict[str, Any] = dict(error.errors(include_url=False, include_input=False)[0])
    return f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
