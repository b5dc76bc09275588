"""A replica's log, asked of its node piece by piece; following it is asking again where the last piece ended.

When the node is away or no longer has the replica, the last lines it sent are the answer.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from aiwm.deployments.last_logs import LastLogs
from aiwm.deployments.records import DeploymentState, Replica
from aiwm.kit.clock import Clock
from aiwm.nodes.commands import CommandFailed, Commands
from aiwm.protocol.errors import AiwmError, Conflict, TimedOut, Unavailable
from aiwm.protocol.node_channel import COMMAND_LOGS, LogsCommand, LogsResult

_RESULT_SECONDS = 10.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Beginning:
    """The last lines of a replica, and who said them: its node now, or the store what the node sent."""

    replica: Replica
    piece: LogsResult
    source: Literal["node", "stored"]


class Logs:
    """Reads through the node channel."""

    def __init__(self, commands: Commands, last: LastLogs, clock: Clock) -> None:
        self._commands, self._last, self._clock = commands, last, clock

    async def first(self, state: DeploymentState, tail: int) -> Beginning:
        """The last `tail` lines of the newest replica.

        `Conflict` NO_REPLICA; when nothing was kept either, `Unavailable` NODE_OFFLINE or what the node answered.
        """
        if not state.replicas:
            raise Conflict("cannot read logs: this deployment has no replica yet", code="NO_REPLICA")
        replica = state.replicas[-1]
        try:
            return Beginning(replica, await self._ask(state.id, replica, tail=tail), "node")
        except AiwmError as error:
            kept = await self._last.of(replica.replica_id) if _is_away(error) else None
            if kept is None:
                raise
            return Beginning(replica, LogsResult(text=kept.text(tail), next_offset=0), "stored")

    async def follow(self, deployment_id: str, begin: Beginning) -> AsyncIterator[str]:
        """`begin`, and what comes after it, until the node no longer has the replica or is gone."""
        replica, offset = begin.replica, begin.piece.next_offset
        yield begin.piece.text
        while begin.source == "node":
            await self._clock.sleep(_POLL_SECONDS)
            try:
                piece = await self._ask(deployment_id, replica, offset=offset)
            except AiwmError:
                return
            offset = piece.next_offset
            if piece.text:
                yield piece.text

    async def _ask(self, deployment_id: str, replica: Replica, **what: int) -> LogsResult:
        command = LogsCommand(deployment_id=deployment_id, replica_id=replica.replica_id, **what)
        answer = await self._commands.call(replica.node_id, COMMAND_LOGS, command, timeout=_RESULT_SECONDS)
        return LogsResult.model_validate(answer)


def _is_away(error: AiwmError) -> bool:
    gone = isinstance(error, CommandFailed) and error.code == "DEPLOYMENT_NOT_RUNNING"
    return gone or isinstance(error, Unavailable | TimedOut)
