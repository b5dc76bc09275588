"""Nodes as records: what users may do with them, and how what a node reports is kept."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from aiwm.infra.store.port import Condition, Query, Store, Where
from aiwm.infra.store.records import changed_by_user, new_base, soft_deleted
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import Clock, iso, seconds_between
from aiwm.kit.context import correlation_id
from aiwm.nodes import alerts, conditions, rules
from aiwm.nodes.identity import check_instance
from aiwm.nodes.records import NODES, NodeObservation, NodeRecord, node_view
from aiwm.nodes.roster import Roster
from aiwm.nodes.tenure import Tenure, check
from aiwm.protocol.errors import Conflict, NotFound
from aiwm.protocol.node_channel import Heartbeat, Metrics, NodeRegister
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.nodes import ConditionReport, Node, NodeCreate, NodeToken
from aiwm.protocol.states import NodeStatus, PrincipalKind

_EVENT_OF = {NodeStatus.ONLINE: "node.online", NodeStatus.OFFLINE: "node.offline", NodeStatus.ERROR: "node.error"}


class NodeService:
    """`woken(node_id)` is called after every change of a node that may matter to placement."""

    def __init__(
        self, store: Store, roster: Roster, tokens: Tokens, clock: Clock, woken: Callable[[str], None]
    ) -> None:
        self._store, self._roster, self._tokens, self._clock, self._woken = store, roster, tokens, clock, woken
        self._nodes = roster.records

    async def create(self, params: NodeCreate, *, owner: Owner, by: str | None) -> Node:
        """Registers a machine; `Conflict` NAME_TAKEN."""
        base = new_base("node", owner=owner, by=by, at=self._clock.now())
        record = NodeRecord.model_validate({**base, **dict(params), "unique_key": _unique_key(owner, params.name)})
        try:
            record = await self._roster.add(record)
        except Conflict as taken:
            raise _name_taken(params.name) from taken
        return self.view(record)

    async def join(self, record: NodeRecord) -> tuple[NodeRecord, bool]:
        """The node of the record's id, and whether it is this one: of several at once one is stored.

        `Conflict` NAME_TAKEN when another node has its name.
        """
        try:
            named = record.model_copy(update={"unique_key": _unique_key(record.owner, record.name)})
            return await self._roster.admit(named), True
        except Conflict as taken:
            there = await self.under_id(record.id)
            if there is None:
                raise _name_taken(record.name) from taken
            return there, False

    async def under_id(self, node_id: str) -> NodeRecord | None:
        """The node that has or had this id."""
        return await self._nodes.get(node_id)

    def find(self, node_id: str) -> NodeRecord | None:
        """The node's record, unless it was deleted or never was."""
        return self._roster.record(node_id)

    def record(self, node_id: str) -> NodeRecord:
        """The node's record; `NotFound` also when it was deleted."""
        found = self.find(node_id)
        if found is None:
            raise NotFound(f"cannot find node {node_id}: there is none of that id", code="NODE_NOT_FOUND")
        return found

    def view(self, record: NodeRecord) -> Node:
        """The resource of a record."""
        return node_view(record, self._roster.seen(record.id))

    def with_status(self, status: str | None) -> tuple[Condition, ...]:
        """The condition that keeps a query of nodes to those of that status; none without one."""
        if status is None:
            return ()
        return (Where("id", "in", tuple(record.id for record, seen in self._roster if seen.status == status)),)

    async def page(self, query: Query) -> tuple[Sequence[Node], int]:
        """A page of nodes and how many there are in all."""
        records = await self._nodes.find(query)
        return [self.view(record) for record in records], await self._nodes.count(query.where)

    async def change(self, record: NodeRecord, changes: dict[str, object], *, by: str | None) -> Node:
        """Applies what a user set; `Stale` when somebody else did so first, `Conflict` NAME_TAKEN."""
        changed = changed_by_user(record, changes, by=by, at=self._clock.now())
        changed = changed.model_copy(update={"unique_key": _unique_key(changed.owner, changed.name)})
        try:
            changed = await self._nodes.replace(changed)
        except Conflict as taken:
            raise _name_taken(changed.name) from taken
        self._noted(changed)
        return self.view(changed)

    async def delete(self, record: NodeRecord, *, by: str | None) -> None:
        """Deletes softly; its tokens no longer open anything."""
        self._noted(await self._nodes.replace(soft_deleted(record, by=by, at=self._clock.now())))

    def token(self, record: NodeRecord, expires_in: int) -> NodeToken:
        """A token the daemon dials in with; `expires_in` in seconds."""
        token, expires_at = self._tokens.issue(PrincipalKind.NODE, record.id, expires_in=expires_in)
        return NodeToken(token=token, expires_at=expires_at)

    async def revoke(self, record: NodeRecord, *, by: str | None) -> Node:
        """No token issued until now opens anything any more."""
        now = self._clock.now()

        def revoked(node: NodeRecord) -> NodeRecord:
            return changed_by_user(node, {"tokens_from": now}, by=by, at=now)

        changed = await self._nodes.update(record.id, revoked)
        self._noted(changed)
        return self.view(changed)

    async def authenticate(self, token: str | None) -> tuple[NodeRecord, Tenure]:
        """The node a token stands for, and for how long; refusals carry the codes of the contract's section 5."""
        claims = self._tokens.verify(token, PrincipalKind.NODE)
        held = Tenure(claims.issued_at, claims.expires_at)
        return check(await self._nodes.get(claims.subject), held, now=self._clock.now()), held

    def renewed(self, record: NodeRecord, held: Tenure, *, now: datetime) -> tuple[NodeToken, Tenure]:
        """Another token, issued `now`, that is good for as long as the one before was."""
        seconds = max(1, round(seconds_between(held.issued_at, held.expires_at)))
        token, expires_at = self._tokens.issue(PrincipalKind.NODE, record.id, expires_in=seconds, at=now)
        return NodeToken(token=token, expires_at=expires_at), Tenure(now, expires_at)

    async def again(self, records: Iterable[NodeRecord]) -> dict[str, NodeRecord]:
        """The records as they are now, by id: one query, and only what another process has changed is read anew."""
        known = {record.id: record for record in records}
        now: dict[str, NodeRecord] = {}
        for each in await self._store.find(NODES, Query((Where("id", "in", tuple(known)),))):
            node_id = str(each["id"])
            now[node_id] = known[node_id]
            if known[node_id].version != each["version"]:
                now[node_id] = NodeRecord.model_validate(each)
                self._noted(now[node_id])
        return now

    async def connected(self, node_id: str, instance: str | None, *, replaces: bool) -> NodeObservation:
        """Opens the node's next epoch; `Unauthenticated` NODE_REPLACED when a newer daemon that is there has its place.

        `replaces`: whether the node is connected already.
        """
        now = self._clock.now()

        def opened(seen: NodeObservation) -> NodeObservation:
            check_instance(seen, instance, connected=replaces)
            return rules.connected(seen, instance=instance, at=now)

        return await self._roster.advance(node_id, opened)

    async def registered(self, node: NodeRecord, report: NodeRegister) -> NodeObservation:
        """Keeps what the node says of itself; it is online now."""
        now = self._clock.now()
        return await self._observe(
            node, lambda seen: rules.registered(seen, report, at=now), said=report.conditions, at_once=True
        )

    async def beat(self, node: NodeRecord, report: Heartbeat) -> NodeObservation:
        """Keeps a heartbeat."""
        now = self._clock.now()

        def beaten(seen: NodeObservation) -> NodeObservation:
            return conditions.timed(rules.beat(seen, report, at=now), report.timestamp, at=now)

        return await self._observe(node, beaten, said=report.conditions)

    async def measured(self, node: NodeRecord, report: Metrics) -> NodeObservation:
        """Keeps metrics."""
        return await self._observe(node, lambda seen: rules.measured(seen, report))

    async def judge(self, node: NodeRecord, *, lost: bool | None) -> None:
        """Looks at a node that says nothing; `lost`: whether its absence costs replicas, None: that cannot be said."""
        await self._observe(node, lambda seen: seen, lost=lost)

    async def cloned(self, node: NodeRecord) -> None:
        """A second daemon with this node's identity was refused."""
        now = self._clock.now()
        await self._observe(node, lambda seen: seen.model_copy(update={"cloned_at": now}))

    async def gone(self, node: NodeRecord, *, epoch: int) -> None:
        """The connection of `epoch` has ended."""
        now = self._clock.now()
        await self._observe(node, lambda seen: rules.gone(seen, epoch=epoch, at=now))

    async def missing(self, node: NodeRecord) -> None:
        """The node was online when it was last seen, and has not come back in time."""
        now = self._clock.now()
        await self._observe(node, lambda seen: rules.missing(seen, at=now))

    def fleet(self) -> Iterable[tuple[NodeRecord, NodeObservation]]:
        """Every node there is, with what is seen of it."""
        return self._roster

    def _noted(self, record: NodeRecord) -> None:
        self._roster.note(record)
        self._woken(record.id)

    async def _observe(
        self,
        node: NodeRecord,
        change: Callable[[NodeObservation], NodeObservation],
        *,
        said: Sequence[ConditionReport] | None = None,
        lost: bool | None = None,
        at_once: bool = False,
    ) -> NodeObservation:
        now, facts = self._clock.now(), alerts.Facts()

        def judged(seen: NodeObservation) -> NodeObservation:
            after = conditions.judged(change(seen), at=now, reported=said, lost=lost)
            if self._roster.record(node.id) is None:
                return after
            after, news = alerts.told(node, after, at=now)
            facts.extend(news)
            return after

        before = self._roster.seen(node.id)
        after = self._roster.heard(node.id, judged)
        turned = after.status is not before.status
        if turned:
            facts.append(("service.event", _status_event(node, after, now)))
        if facts or at_once or after.conditions != before.conditions:
            await self._roster.tell(node.id, facts)
        if turned or after.fault != before.fault:
            self._woken(node.id)
        return after


def _status_event(node: NodeRecord, seen: NodeObservation, now: datetime) -> dict[str, object]:
    recipients: dict[str, object] = {"userIds": [node.created_by]} if node.created_by else {}
    if node.owner.org_id:
        recipients["orgIds"] = [node.owner.org_id]
    return {
        "event": "service.event",
        "data": {
            "name": _EVENT_OF[seen.status],
            "data": {"nodeId": node.id, "name": node.name, "status": seen.status.value},
            "metadata": {"correlationId": correlation_id(), "orgId": node.owner.org_id, "timestamp": iso(now)},
            "recipients": recipients,
        },
    }


def _unique_key(owner: Owner, name: str) -> str:
    return f"{owner.org_id or ''}/{name}"


def _name_taken(name: str) -> Conflict:
    return Conflict(f"cannot use the name {name!r}: another node has it", code="NAME_TAKEN")
