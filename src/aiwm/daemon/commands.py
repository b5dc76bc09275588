"""What the controller asks for: read, acknowledged at once, done once, answered by exactly one result."""

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
from aiwm.protocol.errors import AiwmError, Invalid

log = logging.getLogger(__name__)

MOST_REMEMBERED = 4096

Send = Callable[[str, Wire], Awaitable[bool]]
Handler = Callable[[dict[str, object]], Awaitable[dict[str, object]]]


class Commands:
    """Turns messages into calls of `handlers`, by type. A message that was seen before is only acknowledged again."""

    def __init__(self, handlers: dict[str, Handler], send: Send, tasks: Tasks, tally: Tally) -> None:
        self._handlers = handlers
        self._send = send
        self._tasks = tasks
        self._tally = tally
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
        offered = message.metadata.correlation_id if message.metadata else None
        with correlated(accept_correlation_id(offered)):
            self._tasks.spawn(f"{event} {message.message_id}", self._carry_out(event, message))

    async def _carry_out(self, event: str, message: channel.Envelope) -> None:
        began = time.monotonic()
        fresh = message.message_id not in self._seen
        self._remember(message.message_id)
        # Begun before the acknowledgement goes out, so that what is decided follows the order of arrival.
        work = self._tasks.spawn(f"work {message.message_id}", self._result(event, message)) if fresh else None
        await self._send(channel.COMMAND_ACK, channel.CommandAck(original_message_id=message.message_id))
        if work is not None:
            await self._send(channel.COMMAND_RESULT, await work)
            self._tally.commands += 1
            self._tally.command_seconds.append(time.monotonic() - began)

    async def _result(self, event: str, message: channel.Envelope) -> channel.CommandResult:
        log.info("received %s", event, extra={"messageId": message.message_id})
        try:
            result = await self._handler(event)(message.data)
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

    def _handler(self, event: str) -> Handler:
        if event not in self._handlers:
            raise Invalid(f"cannot do {event}: this daemon does not know it", code="COMMAND_INVALID")
        return self._handlers[event]

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
