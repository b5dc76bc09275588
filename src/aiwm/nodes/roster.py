"""All nodes in this controller's memory and in the store: neither a telemetry message nor a plan reads the store.

A change is made in memory first. What people and plans depend on (status, conditions, what a node registered) is
written at once together with the facts it is told by; telemetry alone is written by the next flush, at most once in 30
seconds for each node however much it sends, and the last 30 seconds of it may be lost with the process.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set

from aiwm.infra.store.outbox import TellingRecord
from aiwm.infra.store.port import Index, Query, Store, Where
from aiwm.infra.store.records import Records
from aiwm.kit.clock import Clock
from aiwm.kit.wake import Wake
from aiwm.nodes.records import NODES, OBSERVATIONS, NodeObservation, NodeRecord
from aiwm.protocol.errors import AiwmError, Conflict, NotFound, Unavailable
from aiwm.protocol.notifications import QUEUE

log = logging.getLogger(__name__)

FLUSH_SECONDS = 30.0
_AT_ONCE = 50
_READ_AT_ONCE = 500

Facts = Sequence[tuple[str, dict[str, object]]]
"""Jobs that tell people of a change: their names and data."""

_OUTBOX = tuple(TellingRecord.model_fields)


class Roster:
    """Records (written by users) and observations (written by the node's channel) of all nodes that are not deleted.

    `changed(node_id)` is called after each write from here.
    """

    def __init__(self, store: Store, clock: Clock, relay: Wake, changed: Callable[[str], None]) -> None:
        self._store, self._clock, self._relay, self._changed = store, clock, relay, changed
        self.records = Records(store, NODES, NodeRecord)
        self._stored = Records(store, OBSERVATIONS, NodeObservation)
        self._record_by_id: dict[str, NodeRecord] = {}
        self._seen_by_id: dict[str, NodeObservation] = {}
        self._unwritten: set[str] = set()
        self._untold: dict[str, list[tuple[str, dict[str, object]]]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        # What was read before another wrote must not come back: the last version known of each, and who was deleted.
        self._versions: dict[str, int] = {}
        self._deleted: deque[str] = deque(maxlen=1000)

    async def load(self) -> None:
        """Makes the indexes and reads everything that is not deleted."""
        await self._store.ensure_index(Index(NODES, ("uniqueKey",), unique=True))
        await self._store.ensure_index(Index(NODES, ("owner.orgId", "createdAt")))
        await self.reload(None)

    async def reload(self, ids: Set[str] | None) -> None:
        """Reads again what other processes may have changed, None: everything; what is unwritten here stays."""
        if ids is None:
            live = await self.records.find(Query((Where("deletedAt", "eq", None),)))
            await self._take(live)
            ids = self._record_by_id.keys() - {record.id for record in live}
        ordered = sorted(ids)
        for start in range(0, len(ordered), _READ_AT_ONCE):
            some = tuple(ordered[start : start + _READ_AT_ONCE])
            await self._take(await self.records.find(Query((Where("id", "in", some),))))

    async def _take(self, records: Sequence[NodeRecord]) -> None:
        ids = [record.id for record in records if record.deleted_at is None]
        for start in range(0, len(ids), _READ_AT_ONCE):
            some = tuple(ids[start : start + _READ_AT_ONCE])
            for stored in await self._stored.find(Query((Where("id", "in", some),))):
                newer = (
                    stored.version >= self._versions.get(stored.id, 0) and stored.epoch >= self.seen(stored.id).epoch
                )
                if newer and stored.id not in self._unwritten and stored.id not in self._deleted:
                    self._seen_by_id[stored.id] = _without_outbox(stored)
                    self._versions[stored.id] = stored.version
        for record in records:
            self._keep(record)

    async def add(self, record: NodeRecord) -> NodeRecord:
        """Stores a new node, its observation first; `Conflict` when the name is taken, with nothing left behind."""
        await self._stored.insert(NodeObservation(id=record.id))
        try:
            record = await self.records.insert(record)
        except Conflict:
            await self._stored.delete(record.id)
            raise
        self.note(record)
        return record

    async def admit(self, record: NodeRecord) -> NodeRecord:
        """Stores a node that may be stored by several at once; `Conflict` when its id or its name exists.

        Its observation comes first, so that no node is ever without one; under a taken name it waits for the next try.
        """
        with contextlib.suppress(Conflict):
            await self._stored.insert(NodeObservation(id=record.id))
        record = await self.records.insert(record)
        self.note(record)
        return record

    def note(self, record: NodeRecord) -> None:
        """Takes a record as it was just stored; a deleted one is forgotten."""
        self._keep(record)
        self._changed(record.id)

    def _keep(self, record: NodeRecord) -> None:
        older = self._record_by_id.get(record.id)
        if record.id in self._deleted or (older is not None and older.version >= record.version):
            return
        if record.deleted_at is None:
            self._record_by_id[record.id] = record
            return
        for known in (self._record_by_id, self._seen_by_id, self._locks, self._untold, self._versions):
            known.pop(record.id, None)
        self._unwritten.discard(record.id)
        self._deleted.append(record.id)

    def record(self, node_id: str) -> NodeRecord | None:
        """The node's record, unless it is deleted or never was."""
        return self._record_by_id.get(node_id)

    def seen(self, node_id: str) -> NodeObservation:
        """What is seen of a node."""
        return self._seen_by_id.get(node_id) or NodeObservation(id=node_id)

    def __iter__(self) -> Iterator[tuple[NodeRecord, NodeObservation]]:
        return iter([(record, self.seen(record.id)) for record in self._record_by_id.values()])

    def heard(self, node_id: str, change: Callable[[NodeObservation], NodeObservation]) -> NodeObservation:
        """Changes what is seen in memory alone; the next flush writes it."""
        before = self.seen(node_id)
        after = change(before)
        if after is not before and node_id in self._record_by_id:
            self._seen_by_id[node_id] = after
            self._unwritten.add(node_id)
        return after

    async def tell(self, node_id: str, facts: Facts) -> None:
        """Writes what is seen now together with `facts` about it. When the store is away, a later flush does."""
        self._untold.setdefault(node_id, []).extend(facts)
        self._unwritten.add(node_id)
        try:
            await self._write(node_id)
        except Unavailable as error:
            log.warning("kept in memory until the store is back: %s", error.message, extra={"nodeId": node_id})

    async def advance(self, node_id: str, change: Callable[[NodeObservation], NodeObservation]) -> NodeObservation:
        """Changes what is seen on top of what the store has: other controllers write it too. Raises `Unavailable`."""
        base = self.seen(node_id)
        async with self._lock(node_id):

            def ahead(stored: NodeObservation) -> NodeObservation:
                nonlocal base
                base = _onto(stored, self.seen(node_id))
                return change(base)

            after = await self._stored.update(node_id, ahead)
        self._seen_by_id[node_id] = _advanced(base, after, self.seen(node_id))
        self._versions[node_id] = after.version
        self._changed(node_id)
        return after

    async def run(self) -> None:
        """Flushes for ever; while the store is away, everything waits."""
        while True:
            await self._clock.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Writes what has changed since the last flush; it stays unwritten while the store is away."""
        waiting = list(self._unwritten)
        for start in range(0, len(waiting), _AT_ONCE):
            writing = [self._write(node_id) for node_id in waiting[start : start + _AT_ONCE]]
            for failure in await asyncio.gather(*writing, return_exceptions=True):
                if isinstance(failure, Unavailable):
                    log.warning("what nodes report waits: %s", failure.message)
                    return
                if isinstance(failure, AiwmError):
                    # One node's record is that node's loss, and none of the others'.
                    log.error("cannot keep what a node reports: %s", failure.message)
                elif failure is not None:
                    raise failure

    async def _write(self, node_id: str) -> None:
        async with self._lock(node_id):
            if node_id not in self._unwritten:
                return
            self._unwritten.discard(node_id)
            seen, facts = self.seen(node_id), self._untold.pop(node_id, [])

            def written(stored: NodeObservation) -> NodeObservation:
                if stored.epoch > seen.epoch:
                    # Another controller has the node's newer connection: what was seen here is of the past.
                    return stored
                after = _onto(stored, seen)
                for name, data in facts:
                    after = after.telling(QUEUE, name, data, at=self._clock.now())
                return stored if after == stored else after

            try:
                after = await self._stored.update(node_id, written)
                self._versions[node_id] = max(after.version, self._versions.get(node_id, 0))
            except NotFound:
                # Deleted meanwhile: there is nothing left to be told of.
                return
            except Unavailable:
                self._unwritten.add(node_id)
                self._untold[node_id] = [*facts, *self._untold.get(node_id, [])]
                raise
        self._changed(node_id)
        if facts:
            self._relay.set()

    def _lock(self, node_id: str) -> asyncio.Lock:
        return self._locks.setdefault(node_id, asyncio.Lock())


def _onto(stored: NodeObservation, seen: NodeObservation) -> NodeObservation:
    """`seen` with the store's own fields of `stored`; `stored` itself where a newer connection's holder wrote it."""
    if stored.epoch > seen.epoch:
        return stored
    return seen.model_copy(update={name: getattr(stored, name) for name in _OUTBOX})


def _advanced(base: NodeObservation, after: NodeObservation, seen: NodeObservation) -> NodeObservation:
    """What is seen now with what led from `base` to `after`: news that came while that was written is not undone."""
    if base.epoch > seen.epoch:
        return _without_outbox(after)
    changed = {name: value for name, value in after if value != getattr(base, name) and name not in _OUTBOX}
    return seen.model_copy(update=changed)


def _without_outbox(seen: NodeObservation) -> NodeObservation:
    """Facts that wait are the store's and the relay's business."""
    return seen.model_copy(update={"outbox": [], "outbox_since": None})
