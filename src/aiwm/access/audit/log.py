"""Appending to the one chain of the installation, also when several processes do at once.

The sequence number is the record's key: of two processes that append after the same head only one can insert, and the
other reads the new head and tries again. So there is one order without a lock that could be left behind.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from aiwm.access.audit.budget import Budget
from aiwm.http.audit import Deed
from aiwm.infra.store.port import Condition, Index, Query, Record, Store, Where
from aiwm.kit.acting import Act
from aiwm.kit.clock import Clock
from aiwm.kit.context import correlation_id
from aiwm.protocol.audit import FIRST, AuditActor, AuditEntry, AuditTarget
from aiwm.protocol.errors import Conflict, Unavailable

COLLECTION = "audit"
_ATTEMPTS = 200
_BATCH = 500
_INDEXED = ("time", "actor.id", "target.id", "action")


class AuditLog:
    """One process's end of the log; there is no way to change or remove an entry."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._head: tuple[int, str] | None = None
        self._turn = asyncio.Lock()
        self._budget = Budget()

    async def prepare(self) -> None:
        """Makes the indexes."""
        for name in _INDEXED:
            await self._store.ensure_index(Index(COLLECTION, (name,)))

    async def record(self, deed: Deed, act: Act) -> None:
        """Returns when the entry is durable, or was counted instead of kept; `Unavailable` when it cannot be."""
        left_out: int | None = 0
        if deed.outcome == "denied":
            left_out = self._budget.spend(act.address, self._clock.now().timestamp())
        if left_out is not None:
            await self._append(deed, act, left_out)

    async def secret_used(self, name: str, secret_id: str, org_id: str | None, act: Act) -> None:
        """Puts on record that a stored secret was opened: which one, and by whom, never what it says."""
        target = AuditTarget(kind="secrets", id=secret_id, org_id=org_id)
        await self._append(Deed("secret", f"secrets.{name}", target, "ok"), act, 0)

    async def entries(self, where: tuple[Condition, ...] = (), *, after: int = 0) -> AsyncIterator[AuditEntry]:
        """All entries that match, in order."""
        while True:
            from_here = Where("id", "gt", _key(after))
            found = await self._store.find(COLLECTION, Query((*where, from_here), sort=("id",), limit=_BATCH))
            for record in found:
                entry = AuditEntry.model_validate(record)
                after = entry.seq
                yield entry
            if len(found) < _BATCH:
                return

    async def page(self, query: Query) -> tuple[list[AuditEntry], int]:
        """One page, and how many there are in all."""
        found = await self._store.find(COLLECTION, query)
        return [AuditEntry.model_validate(each) for each in found], await self._store.count(COLLECTION, query.where)

    async def _append(self, deed: Deed, act: Act, left_out: int) -> None:
        async with self._turn:
            for _ in range(_ATTEMPTS):
                seq, previous = self._head or await self._read_head()
                entry = self._entry(deed, act, left_out, seq + 1, previous)
                self._head = None
                try:
                    await self._store.insert(COLLECTION, _record(entry))
                except Conflict:
                    continue
                self._head = (entry.seq, entry.hash)
                return
        raise Unavailable("cannot put this on record: too many others write to the log at once", code="CONTENDED")

    async def _read_head(self) -> tuple[int, str]:
        found = await self._store.find(COLLECTION, Query(sort=("-id",), limit=1))
        return (int(str(found[0]["seq"])), str(found[0]["hash"])) if found else (0, FIRST)

    def _entry(self, deed: Deed, act: Act, left_out: int, seq: int, previous: str) -> AuditEntry:
        who = act.actor
        return AuditEntry(
            seq=seq,
            time=self._clock.now(),
            category=deed.category,
            action=_storable(deed.action) or "",
            actor=AuditActor(
                kind=who.kind if who else None,
                id=who.id if who else None,
                username=_storable(who.username if who else act.username),
                org_id=who.org_id if who else None,
                address=act.address,
            ),
            target=deed.target.model_copy(update={"id": _storable(deed.target.id)}),
            outcome=deed.outcome,
            status=deed.status,
            code=deed.code,
            repeated=left_out,
            correlation_id=correlation_id(),
            previous=previous,
        ).sealed()


def _key(seq: int) -> str:
    """Sorts as text as the numbers do."""
    return f"{seq:015d}"


def _record(entry: AuditEntry) -> Record:
    document = entry.to_wire()
    time = datetime.fromisoformat(str(document["time"])).astimezone(UTC)
    return {**document, "id": _key(entry.seq), "time": time}


def _storable(text: str | None) -> str | None:
    """`text` as every backend keeps it, whatever somebody put into a path or a name."""
    return None if text is None else text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
