"""Nodes as records: what users may do with them, and how what a node reports is kept."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from aiwm.infra.store.port import Condition, Index, Query, Store, Where
from aiwm.infra.store.records import Records, changed_by_user, new_base, soft_deleted
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import Clock, iso, seconds_between
from aiwm.kit.context import correlation_id
from aiwm.kit.wake import Wake
from aiwm.nodes import rules
from aiwm.nodes.records import NODES, OBSERVATIONS, NodeObservation, NodeRecord, node_view
from aiwm.nodes.tenure import Tenure, check
from aiwm.protocol.errors import Conflict, NotFound
from aiwm.protocol.node_channel import Heartbeat, Metrics, NodeRegister
from aiwm.protocol.notifications import QUEUE
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.nodes import Node, NodeCreate, NodeToken
from aiwm.protocol.states import NodeStatus, PrincipalKind

_EVENT_OF = {NodeStatus.ONLINE: "node.online", NodeStatus.OFFLINE: "node.offline", NodeStatus.ERROR: "node.error"}


class NodeService:
    """`woken` is called after every change that may matter to placement."""

    def __init__(self, store: Store, tokens: Tokens, clock: Clock, relay: Wake, woken: Callable[[], None]) -> None:
        self._store, self._tokens, self._clock, self._relay, self._woken = store, tokens, clock, relay, woken
        self._nodes = Records(store, NODES, NodeRecord)
        self._seen = Records(store, OBSERVATIONS, NodeObservation)

    async def prepare(self) -> None:
        """Makes the indexes."""
        await self._store.ensure_index(Index(NODES, ("uniqueKey",), unique=True))
        await self._store.ensure_index(Index(NODES, ("owner.orgId", "createdAt")))

    async def create(self, params: NodeCreate, *, owner: Owner, by: str | None) -> Node:
        """Registers a machine; `Conflict` NAME_TAKEN."""
        base = new_base("node", owner=owner, by=by, at=self._clock.now())
        record = NodeRecord.model_validate({**base, **dict(params), "unique_key": _unique_key(owner, params.name)})
        await self._seen.insert(NodeObservation(id=record.id))
        try:
            record = await self._nodes.insert(record)
        except Conflict as taken:
            await self._seen.delete(record.id)
            raise _name_taken(params.name) from taken
        return node_view(record, await self._observation(record.id))

    async def join(self, record: NodeRecord) -> tuple[NodeRecord, bool]:
        """The node of the record's id, and whether it is this one: of several at once one is stored.

        `Conflict` NAME_TAKEN when another node has its name.
        """
        # Before the node, so that no node is ever without one; under a name that is taken it waits for the next try.
        with contextlib.suppress(Conflict):
            await self._seen.insert(NodeObservation(id=record.id))
        try:
            return await self._nodes.insert(
                record.model_copy(update={"unique_key": _unique_key(record.owner, record.name)})
            ), True
        except Conflict as taken:
            there = await self.under_id(record.id)
            if there is None:
                raise _name_taken(record.name) from taken
            return there, False

    async def under_id(self, node_id: str) -> NodeRecord | None:
        """The node that has or had this id."""
        return await self._nodes.get(node_id)

    async def find(self, node_id: str) -> NodeRecord | None:
        """The node's record, unless it was deleted or never was."""
        found = await self._nodes.get(node_id)
        return None if found is None or found.deleted_at is not None else found

    async def record(self, node_id: str) -> NodeRecord:
        """The node's record; `NotFound` also when it was deleted."""
        found = await self.find(node_id)
        if found is None:
            raise NotFound(f"cannot find node {node_id}: there is none of that id", code="NODE_NOT_FOUND")
        return found

    async def view(self, record: NodeRecord) -> Node:
        """The resource of a record."""
        return node_view(record, await self._observation(record.id))

    async def with_status(self, status: str | None) -> tuple[Condition, ...]:
        """The condition that keeps a query of nodes to those of that status; none without one."""
        if status is None:
            return ()
        seen = await self._seen.find(Query((Where("status", "eq", status),)))
        return (Where("id", "in", tuple(each.id for each in seen)),)

    async def page(self, query: Query) -> tuple[Sequence[Node], int]:
        """A page of nodes and how many there are in all."""
        records = await self._nodes.find(query)
        ids = tuple(record.id for record in records)
        seen = {each.id: each for each in await self._seen.find(Query((Where("id", "in", ids),)))}
        views = [node_view(record, seen.get(record.id, NodeObservation(id=record.id))) for record in records]
        return views, await self._nodes.count(query.where)

    async def change(self, record: NodeRecord, changes: dict[str, object], *, by: str | None) -> Node:
        """Applies what a user set; `Stale` when somebody else did so first, `Conflict` NAME_TAKEN."""
        changed = changed_by_user(record, changes, by=by, at=self._clock.now())
        changed = changed.model_copy(update={"unique_key": _unique_key(changed.owner, changed.name)})
        try:
            changed = await self._nodes.replace(changed)
        except Conflict as taken:
            raise _name_taken(changed.name) from taken
        self._woken()
        return await self.view(changed)

    async def delete(self, record: NodeRecord, *, by: str | None) -> None:
        """Deletes softly; its tokens no longer open anything."""
        await self._nodes.replace(soft_deleted(record, by=by, at=self._clock.now()))
        self._woken()

    def token(self, record: NodeRecord, expires_in: int) -> NodeToken:
        """A token the daemon dials in with; `expires_in` in seconds."""
        token, expires_at = self._tokens.issue(PrincipalKind.NODE, record.id, expires_in=expires_in)
        return NodeToken(token=token, expires_at=expires_at)

    async def revoke(self, record: NodeRecord, *, by: str | None) -> Node:
        """No token issued until now opens anything any more."""
        now = self._clock.now()

        def revoked(node: NodeRecord) -> NodeRecord:
            return changed_by_user(node, {"tokens_from": now}, by=by, at=now)

        return await self.view(await self._nodes.update(record.id, revoked))

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
        """The records as they are now, by id: one query, and only what has changed is read anew."""
        known = {record.id: record for record in records}
        found = await self._store.find(NODES, Query((Where("id", "in", tuple(known)),)))
        changed = {str(each["id"]): each for each in found}
        return {
            node_id: known[node_id] if known[node_id].version == each["version"] else NodeRecord.model_validate(each)
            for node_id, each in changed.items()
        }

    async def connected(self, node_id: str) -> NodeObservation:
        """Opens the node's next epoch."""
        return await self._seen.update(node_id, lambda seen: rules.connected(seen, at=self._clock.now()))

    async def registered(self, node: NodeRecord, report: NodeRegister) -> NodeObservation:
        """Keeps what the node says of itself; it is online now."""
        now = self._clock.now()
        return await self._observe(node, lambda seen: rules.registered(seen, report, at=now))

    async def beat(self, node: NodeRecord, report: Heartbeat) -> None:
        """Keeps a heartbeat."""
        now = self._clock.now()
        await self._observe(node, lambda seen: rules.beat(seen, report, at=now))

    async def measured(self, node: NodeRecord, report: Metrics) -> None:
        """Keeps metrics."""
        await self._seen.update(node.id, lambda seen: rules.measured(seen, report))

    async def gone(self, node: NodeRecord, *, epoch: int) -> None:
        """The connection of `epoch` has ended."""
        await self._observe(node, lambda seen: rules.gone(seen, epoch=epoch))

    async def missing(self, node: NodeRecord) -> None:
        """The node was online before this controller started and has not come back in time."""
        await self._observe(node, rules.missing)

    async def online(self) -> list[NodeRecord]:
        """The nodes last seen connected."""
        seen = await self._seen.find(Query((Where("status", "ne", NodeStatus.OFFLINE.value),)))
        ids = tuple(each.id for each in seen)
        return await self._nodes.find(Query((Where("id", "in", ids),)))

    async def fleet(self) -> list[tuple[NodeRecord, NodeObservation]]:
        """Every node there is, with what is seen of it."""
        records = await self._nodes.find(Query((Where("deletedAt", "eq", None),)))
        seen = {each.id: each for each in await self._seen.find(Query())}
        return [(record, seen.get(record.id, NodeObservation(id=record.id))) for record in records]

    async def _observation(self, node_id: str) -> NodeObservation:
        return await self._seen.get(node_id) or NodeObservation(id=node_id)

    async def _observe(self, node: NodeRecord, change: Callable[[NodeObservation], NodeObservation]) -> NodeObservation:
        now = self._clock.now()
        turned = False

        def telling(seen: NodeObservation) -> NodeObservation:
            nonlocal turned
            changed = change(seen)
            turned = changed.status is not seen.status
            return (
                changed.telling(QUEUE, "service.event", _status_event(node, changed, now), at=now)
                if turned
                else changed
            )

        after = await self._seen.update(node.id, telling)
        if turned:
            self._relay.set()
            self._woken()
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
