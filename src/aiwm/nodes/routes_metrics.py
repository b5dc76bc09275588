"""A node's measurements over REST."""

from typing import Annotated

from fastapi import APIRouter, Query

from aiwm.access import policy
from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.kit.clock import Clock
from aiwm.nodes.history import History
from aiwm.nodes.periods import period
from aiwm.nodes.service import NodeService
from aiwm.protocol.base import Timestamp
from aiwm.protocol.errors import NotFound
from aiwm.protocol.resources.node_metrics import KEPT_SECONDS, SHORTEST_STEP_SECONDS, NodeMetrics

_Step = Annotated[int | None, Query(ge=SHORTEST_STEP_SECONDS, le=KEPT_SECONDS)]


def metrics_router(nodes: NodeService, history: History, guard: Guard, clock: Clock) -> APIRouter:
    """Whoever may see a node may see how it fared."""
    router = APIRouter(prefix="/nodes", tags=["nodes"])
    reader = guard.needs("nodes.read")

    @router.get("/{node_id}/metrics")
    async def node_metrics(
        who: Annotated[Principal, reader],
        node_id: str,
        from_: Annotated[Timestamp | None, Query(alias="from")] = None,
        to: Timestamp | None = None,
        step: _Step = None,
    ) -> NodeMetrics:
        """The last hour at ten seconds, a week at one minute. Times are ISO 8601, `step` is in seconds."""
        record = nodes.record(node_id)
        if not policy.visible(who, record.owner.org_id, shareable=True):
            raise NotFound(f"cannot find node {node_id}: there is none of that id", code="NODE_NOT_FOUND")
        asked = period(from_, to, step, now=clock.now())
        return await history.read(record.id, asked.begin, asked.end, asked.step)

    return router
