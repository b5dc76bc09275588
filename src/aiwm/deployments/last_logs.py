"""The last lines of engines that ended, kept here so that the reason can be read when the node is gone.

One record per replica, the newest end in it. A node writes only about replicas that the state says are on it, and the
records go with the deployment.
"""

from aiwm.deployments.book import Book
from aiwm.infra.store.port import Index, Store, Where
from aiwm.infra.store.records import Records, StoredRecord
from aiwm.kit.clock import Clock
from aiwm.protocol.base import Timestamp
from aiwm.protocol.errors import Conflict
from aiwm.protocol.node_channel import DeploymentLogs

REPLICA_LOGS = "replicaLogs"


class ReplicaLog(StoredRecord):
    """What a replica's engine wrote before it ended, and why it did; `id` is the replica's."""

    deployment_id: str
    node_id: str
    generation: int
    restarts: int
    reason: str | None = None
    lines: list[str]
    at: Timestamp

    def text(self, tail: int) -> str:
        """The last `tail` lines as plain text."""
        return "".join(f"{line}\n" for line in self.lines[len(self.lines) - min(tail, len(self.lines)) :])


class LastLogs:
    """Reads and writes them."""

    def __init__(self, store: Store, book: Book, clock: Clock) -> None:
        self._store, self._book, self._clock = store, book, clock
        self._records = Records(store, REPLICA_LOGS, ReplicaLog)

    async def prepare(self) -> None:
        """Makes the index."""
        await self._store.ensure_index(Index(REPLICA_LOGS, ("deploymentId",)))

    async def keep(self, node_id: str, report: DeploymentLogs) -> bool:
        """Stores what `node_id` says about a replica of its own; False for any other, and for one that ended since."""
        replicas = self._book.state(report.deployment_id).replicas
        known = next((each for each in replicas if each.replica_id == report.replica_id), None)
        if self._book.wish(report.deployment_id) is None or known is None or known.node_id != node_id:
            return False
        await self._write(
            ReplicaLog(
                id=report.replica_id,
                deployment_id=report.deployment_id,
                node_id=node_id,
                generation=report.generation,
                restarts=report.restarts,
                reason=report.reason,
                lines=report.lines,
                at=self._clock.now(),
            )
        )
        # What earlier replicas left is of no use beside those there are.
        others = tuple(Where("id", "ne", each.replica_id) for each in replicas)
        await self._store.delete_range(REPLICA_LOGS, (Where("deploymentId", "eq", report.deployment_id), *others))
        if self._book.wish(report.deployment_id) is None:
            await self.forget(report.deployment_id)
        return True

    async def _write(self, record: ReplicaLog) -> None:
        try:
            await self._records.insert(record)
        except Conflict:
            await self._records.update(record.id, lambda kept: _newer(kept, record))

    async def of(self, replica_id: str) -> ReplicaLog | None:
        """What is kept of a replica."""
        return await self._records.get(replica_id)

    async def forget(self, deployment_id: str) -> None:
        """Removes all that is kept of a deployment."""
        await self._store.delete_range(REPLICA_LOGS, (Where("deploymentId", "eq", deployment_id),))


def _newer(kept: ReplicaLog, record: ReplicaLog) -> ReplicaLog:
    """A message that comes late or twice does not take the place of a newer one."""
    if (record.generation, record.restarts) < (kept.generation, kept.restarts):
        return kept
    return record.model_copy(update={"version": kept.version})
