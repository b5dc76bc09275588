"""Looks after nodes that are away: when their absence costs replicas, that is a condition, and people are told."""

from collections.abc import Callable, Set

from aiwm.kit.clock import Clock
from aiwm.nodes import conditions
from aiwm.nodes.service import NodeService
from aiwm.protocol.states import NodeStatus

EVERY_SECONDS = 10.0


class Losses:
    """`in_use()` are the nodes with replicas, `isolated()` whether this controller is the one that is away.

    Of several controllers the one that `judges()` does, so that people are told once.
    """

    def __init__(
        self,
        nodes: NodeService,
        in_use: Callable[[], Set[str]],
        isolated: Callable[[], bool],
        judges: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._nodes, self._in_use, self._isolated, self._judges, self._clock = nodes, in_use, isolated, judges, clock

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            await self._clock.sleep(EVERY_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Judges every node that is away."""
        if not self._judges():
            return
        now, in_use, isolated = self._clock.now(), self._in_use(), self._isolated()
        for node, seen in self._nodes.fleet():
            if seen.status is NodeStatus.OFFLINE:
                lost = conditions.lost(seen, replicas=node.id in in_use, isolated=isolated, at=now)
                await self._nodes.judge(node, lost=lost)
