"""Who is connected right now, and what each said it runs: in memory, rebuilt by reconnects.

A session is held here or by another controller, which says so (`peers`). Of two sessions of one node the one with the
higher epoch is the newer, wherever each is: the store counts epochs.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from aiwm.protocol.node_channel import ReplicaReport, ReplicaUsage
from aiwm.protocol.states import ReplicaState


@dataclass(slots=True)
class Session:
    """One connection of one node. Until it has registered, nothing may be concluded from its inventory.

    `holder` is the controller that has the connection; None: this one. `noted` is called after each change to the
    inventory, with the replica's id when the node is known to keep nothing of it. `usage` is what each
    replica used when that was said last.
    """

    node_id: str
    sid: str
    epoch: int
    registered: bool = False
    inventory: dict[str, ReplicaReport] = field(default_factory=dict)
    usage: dict[str, ReplicaUsage] = field(default_factory=dict)
    holder: str | None = None
    advertise_host: str | None = None
    machine: str | None = None
    noted: "Callable[[Session, str | None], None] | None" = field(default=None, repr=False, compare=False)

    def took(self, reports: Iterable[ReplicaReport]) -> None:
        """A full inventory replaces the one before."""
        self.inventory = {report.replica_id: report for report in reports}
        self.registered = True
        self._note(None)

    def heard(self, report: ReplicaReport) -> None:
        """News of one replica; one that has stopped is no longer in the inventory (a failed one is, for its logs)."""
        if report.state is ReplicaState.STOPPED:
            self.inventory.pop(report.replica_id, None)
        else:
            self.inventory[report.replica_id] = report
        self._note(None)

    def used(self, usage: Iterable[ReplicaUsage]) -> None:
        """What all replicas use replaces what they used before."""
        self.usage = {each.replica_id: each for each in usage}

    def forgot(self, replica_id: str) -> None:
        """The node keeps nothing of this replica."""
        if self.inventory.pop(replica_id, None) is not None:
            self._note(replica_id)

    def _note(self, forgotten: str | None) -> None:
        if self.noted is not None:
            self.noted(self, forgotten)


class Presence:
    """The current session of each node; a newer connection replaces the older one."""

    def __init__(self) -> None:
        self._by_node: dict[str, Session] = {}
        self._by_sid: dict[str, Session] = {}
        self._addresses: dict[str, str] = {}
        self._tell: Callable[[str], None] | None = None

    def tell(self, changed: Callable[[str], None]) -> None:
        """Names who hears the node's id of each change to a session that is held here."""
        self._tell = changed

    def opened(self, session: Session) -> Session | None:
        """A connection here. The session whose connection must end now: the older of the node's two, if it is here."""
        self._by_sid[session.sid] = session
        known = self._by_node.get(session.node_id)
        if known is not None and known.epoch > session.epoch:
            return session
        self._by_node[session.node_id] = session
        session.noted = lambda changed, _: self._changed(changed)
        self._changed(session)
        return known if known is not None and known.holder is None else None

    def closed(self, sid: str) -> Session | None:
        """Forgets the connection; its session if it was still the node's current one."""
        session = self._by_sid.pop(sid, None)
        if session is None or self._by_node.get(session.node_id) is not session:
            return None
        del self._by_node[session.node_id]
        self._addresses.pop(session.node_id, None)
        self._changed(session)
        return session

    def elsewhere(self, session: Session) -> Session | None:
        """A session that another controller holds; the one here whose connection must end, as it is older."""
        known = self._by_node.get(session.node_id)
        if known is not None and (known.epoch, known.holder is None) > (session.epoch, False):
            return None
        self._by_node[session.node_id] = session
        return known if known is not None and known.holder is None else None

    def left(self, node_id: str, holder: str) -> Session | None:
        """Another controller no longer holds the node's session; that session, if it was the current one.

        Where its engines are dialled stays known: they serve while the node is on its way to another controller.
        """
        known = self._by_node.get(node_id)
        return self._by_node.pop(node_id) if known is not None and known.holder == holder else None

    def _changed(self, session: Session) -> None:
        if self._tell is not None:
            self._tell(session.node_id)

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
        """All sessions, wherever they are held."""
        return iter(list(self._by_node.values()))

    def here(self) -> list[Session]:
        """Those whose connection is this controller's."""
        return [session for session in self._by_node.values() if session.holder is None]

    def held_by(self, holder: str) -> list[Session]:
        """Those whose connection another controller has."""
        return [session for session in self._by_node.values() if session.holder == holder]
