"""A replica's log, asked of its node piece by piece; following it is asking again where the last piece ended."""

from collections.abc import AsyncIterator

from aiwm.deployments.records import DeploymentState, Replica
from aiwm.kit.clock import Clock
from aiwm.nodes.commands import Commands
from aiwm.protocol.errors import AiwmError, Conflict
from aiwm.protocol.node_channel import COMMAND_LOGS, LogsCommand, LogsResult

_RESULT_SECONDS = 10.0
_POLL_SECONDS = 0.5


class Logs:
    """Reads through the node channel."""

    def __init__(self, commands: Commands, clock: Clock) -> None:
        self._commands, self._clock = commands, clock

    async def first(self, state: DeploymentState, tail: int) -> tuple[Replica, LogsResult]:
        """The last `tail` lines of the newest replica. `Conflict` NO_REPLICA, `Unavailable` NODE_OFFLINE."""
        if not state.replicas:
            raise Conflict("cannot read logs: this deployment has no replica yet", code="NO_REPLICA")
        replica = state.replicas[-1]
        return replica, await self._ask(state.id, replica, tail=tail)

    async def follow(self, deployment_id: str, replica: Replica, begin: LogsResult) -> AsyncIterator[str]:
        """`begin`, and what comes after it, until the node no longer has the replica or is gone."""
        yield begin.text
        offset = begin.next_offset
        while True:
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
