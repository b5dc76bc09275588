"""Facts that others must hear of, written in the same record write as the change they tell, and relayed from there.

A fact is a job for a queue, or a record for a collection that only grows. Its id is the record's id and the record's
own count of facts, so it is the same however often it is published, and consumers tell it once. The relay publishes a
record's facts in order and then trims them; a crash between the two publishes them again under the same ids.
"""

import contextlib
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from aiwm.infra.queue.port import JobOptions, Queues
from aiwm.infra.store.port import Index, Query, Store, Where
from aiwm.infra.store.records import Records, StoredRecord
from aiwm.kit.wake import Wake
from aiwm.protocol.base import Timestamp
from aiwm.protocol.errors import AiwmError, Conflict

log = logging.getLogger(__name__)

_BATCH = 200
_SWEEP_SECONDS = 2.0


class Fact(BaseModel):
    """One job to publish (`queue`, job name, job data), or one record to append (`collection`, its fields)."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    id: str
    queue: str | None = None
    collection: str | None = None
    name: str = ""
    data: dict[str, object]


class TellingRecord(StoredRecord):
    """A record that carries its unpublished facts; `outbox_since` is set while there are any."""

    outbox: list[Fact] = []
    outbox_since: Timestamp | None = None
    facts_told: int = 0

    def telling(self, queue: str, name: str, data: dict[str, object], *, at: datetime) -> Self:
        """The record with one more job to publish."""
        return self._with(Fact(id=self._next_id(), queue=queue, name=name, data=data), at)

    def recording(self, collection: str, data: dict[str, object], *, at: datetime) -> Self:
        """The record with one more line for a growing collection."""
        return self._with(Fact(id=self._next_id(), collection=collection, data=data), at)

    def _next_id(self) -> str:
        return f"{self.id}.{self.facts_told + 1:08d}"

    def _with(self, fact: Fact, at: datetime) -> Self:
        return self.model_copy(
            update={
                "outbox": [*self.outbox, fact],
                "outbox_since": self.outbox_since or at,
                "facts_told": self.facts_told + 1,
            }
        )


def without(record: TellingRecord, told: frozenset[str]) -> TellingRecord:
    """The record without the facts in `told`."""
    left = [fact for fact in record.outbox if fact.id not in told]
    if len(left) == len(record.outbox):
        return record
    return record.model_copy(update={"outbox": left, "outbox_since": record.outbox_since if left else None})


class _AnyTelling(TellingRecord):
    model_config = ConfigDict(extra="allow")


class Relay:
    """Publishes the facts of some collections, as soon as it is woken and every two seconds anyway."""

    def __init__(self, store: Store, queues: Queues, collections: Sequence[str]) -> None:
        self._store, self._queues = store, queues
        self._collections = [Records(store, collection, _AnyTelling) for collection in collections]
        self.wake = Wake()

    async def prepare(self) -> None:
        """Makes the indexes the sweep reads by."""
        for records in self._collections:
            await self._store.ensure_index(Index(records.collection, ("outboxSince",)))

    async def run(self) -> None:
        """Relays until cancelled; an outage of store or queue is waited out, nothing is lost by it."""
        while True:
            try:
                while await self.sweep():
                    pass
            except AiwmError as error:
                if not error.retryable:
                    raise
                log.warning("facts wait: %s", error.message)
            await self.wake.wait(_SWEEP_SECONDS)

    async def sweep(self) -> int:
        """Publishes what is pending now; how many facts."""
        published = 0
        for records in self._collections:
            query = Query((Where("outboxSince", "ne", None),), sort=("outboxSince",), limit=_BATCH)
            for record in await records.find(query):
                published += await self._publish(records, record)
        return published

    async def _publish(self, records: Records[_AnyTelling], record: _AnyTelling) -> int:
        for fact in record.outbox:
            if fact.queue is not None:
                await self._queues.add(fact.queue, fact.name, fact.data, JobOptions(job_id=fact.id))
            if fact.collection is not None:
                await self._append(fact.collection, fact)
        told = frozenset(fact.id for fact in record.outbox)

        def trim(current: _AnyTelling) -> _AnyTelling:
            trimmed = without(current, told)
            assert isinstance(trimmed, _AnyTelling)  # noqa: S101 - a copy keeps its type
            return trimmed

        await records.update(record.id, trim)
        return len(told)

    async def _append(self, collection: str, fact: Fact) -> None:
        with contextlib.suppress(Conflict):
            await self._store.insert(collection, {**fact.data, "id": fact.id})
