"""Nodes as placement sees them, made anew only where something about a node has changed."""

from collections.abc import Mapping

from aiwm.deployments.placement import Gpu, NodeFacts
from aiwm.nodes.presence import Presence, Session
from aiwm.nodes.records import NodeObservation, NodeRecord
from aiwm.nodes.service import NodeService
from aiwm.protocol.node_channel import ReplicaReport
from aiwm.protocol.states import NodeRole, NodeStatus

_Inventory = Mapping[str, ReplicaReport]
_Source = tuple[NodeRecord, NodeObservation, Session | None, _Inventory | None]


class FactsOfNodes:
    """Of every node there is. A plan looks at all of them, and most are as they were at the last one."""

    def __init__(self, nodes: NodeService, presence: Presence) -> None:
        self._nodes, self._presence = nodes, presence
        self._known: dict[str, tuple[_Source, NodeFacts]] = {}

    def of_all(self) -> dict[str, NodeFacts]:
        """By node id."""
        self._known = {record.id: self._of(record, seen) for record, seen in self._nodes.fleet()}
        return {node_id: facts for node_id, (_, facts) in self._known.items()}

    def _of(self, record: NodeRecord, seen: NodeObservation) -> tuple[_Source, NodeFacts]:
        session = self._presence.of(record.id)
        inventory = session.inventory if session is not None and session.registered else None
        source = (record, seen, session, inventory)
        known = self._known.get(record.id)
        if known is not None and all(old is new for old, new in zip(known[0], source, strict=True)):
            return known
        return source, _facts(*source)


def _facts(
    record: NodeRecord, seen: NodeObservation, session: Session | None, inventory: _Inventory | None
) -> NodeFacts:
    return NodeFacts(
        node_id=record.id,
        name=record.name,
        org_id=record.owner.org_id,
        worker=NodeRole.WORKER in record.role,
        schedulable=record.schedulable and not record.maintenance,
        labels=record.labels,
        engines=frozenset(engine.name for engine in seen.engines),
        launchers=frozenset(seen.launchers),
        gpus=tuple(Gpu(gpu.device_id, gpu.memory_total) for gpu in seen.gpu_devices),
        ram_free=seen.ram_free,
        inventory=inventory,
        offline=session is None and seen.status is NodeStatus.OFFLINE,
        fault=seen.fault,
    )
