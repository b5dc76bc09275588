"""Who is connected right now, and what each said it runs: this controller's own memory, rebuilt by reconnects."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from aiwm.protocol.node_channel import ReplicaReport, ReplicaUsage
from aiwm.protocol.states import ReplicaState


@dataclass(slots=True)
class Session:
    """One connection of one node. Until it has registered, nothing may be concluded from its inventory.

    `usage` is what each replica used when that was said last.
    """

    node_id: str
    sid: str
    epoch: int
    registered: bool = False
    inventory: dict[str, ReplicaReport] = field(default_factory=dict)
    usage: dict[str, ReplicaUsage] = field(default_factory=dict)

    def took(self, reports: Iterable[ReplicaReport]) -> None:
        """A full inventory replaces the one before."""
        self.inventory = {report.replica_id: report for report in reports}
        self.registered = True

    def heard(self, report: ReplicaReport) -> None:
        """News of one replica; one that has stopped is no longer in the inventory (a failed one is, for its logs)."""
        if report.state is ReplicaState.STOPPED:
            self.inventory.pop(report.replica_id, None)
        else:
            self.inventory[report.replica_id] = report

    def used(self, usage: Iterable[ReplicaUsage]) -> None:
        """What all replicas use replaces what they used before."""
        self.usage = {each.replica_id: each for each in usage}

    def forgot(self, replica_id: str) -> None:
        """The node keeps nothing of this replica."""
        self.inventory.pop(replica_id, None)


class Presence:
    """The current session of each node; a newer connection replaces the older one."""

    def __init__(self) -> None:
        self._by_node: dict[str, Session] = {}
        self._by_sid: dict[str, Session] = {}
        self._addresses: dict[str, str] = {}

    def opened(self, session: Session) -> Session | None:
        """Makes `session` the node's current one; the one it replaced, if any."""
        older = self._by_node.get(session.node_id)
        self._by_node[session.node_id] = session
        self._by_sid[session.sid] = session
        return older

    def closed(self, sid: str) -> Session | None:
        """Forgets the connection; its session if it was still the node's current one."""
        session = self._by_sid.pop(sid, None)
        if session is None or self._by_node.get(session.node_id) is not session:
            return None
        del self._by_node[session.node_id]
        self._addresses.pop(session.node_id, None)
        return session

    def reached_at(self, node_id: str, host: str | None) -> None:
        """Where the gateway may dial a node's engines; None: nowhere.

        Said at each register, and at start for nodes that were connected to the controller before: their engines
        serve while they are on their way back.
        """
        if host is None:
            self._addresses.pop(node_id, None)
        else:
            self._addresses[node_id] = host

    def address(self, node_id: str) -> str | None:
        """Where the gateway may dial the node's engines."""
        return self._addresses.get(node_id)

    def of(self, node_id: str) -> Session | None:
        """The node's current session."""
        return self._by_node.get(node_id)

    def usage(self, node_id: str, replica_id: str) -> ReplicaUsage | None:
        """What a replica used when its node said so last."""
        session = self._by_node.get(node_id)
        return None if session is None else session.usage.get(replica_id)

    def current(self, sid: str) -> Session | None:
        """The session of a connection, unless a newer one has replaced it."""
        session = self._by_sid.get(sid)
        return session if session is not None and self._by_node.get(session.node_id) is session else None

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_node.values()))
