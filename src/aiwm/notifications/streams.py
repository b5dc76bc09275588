"""Each user's one ordered stream and its inbox. Whoever appends or joins a stream holds its lock meanwhile."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

from aiwm.http.paging import Listing, to_query
from aiwm.infra.store.port import Condition, Index, Query, Store, Where
from aiwm.infra.store.records import Records
from aiwm.kit.clock import Clock
from aiwm.kit.ids import new_id
from aiwm.notifications import rules
from aiwm.notifications.records import INBOX, STREAMS, InboxRecord, StreamRecord
from aiwm.protocol.errors import Conflict, NotFound
from aiwm.protocol.notifications import Recipients

_FILTERS = {"event": "event", "name": "name", "severity": "severity"}
_SORTS = {"createdAt": "createdAt", "seq": "seq"}
_BATCH = 200


class Streams:
    """Appending is for one process alone; reading and marking is for any."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._streams = Records(store, STREAMS, StreamRecord)
        self._inbox = Records(store, INBOX, InboxRecord)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def prepare(self) -> None:
        """Makes the indexes."""
        await self._store.ensure_index(Index(INBOX, ("userId", "seq")))
        await self._store.ensure_index(Index(INBOX, ("userId", "readAt")))

    def lock(self, user_id: str) -> asyncio.Lock:
        """Held from a place in the stream until it was told, so that nobody sees a later one first."""
        return self._locks.setdefault(user_id, asyncio.Lock())

    async def stream(self, user_id: str) -> StreamRecord:
        """The user's stream, made when there is none."""
        found = await self._streams.get(user_id)
        if found is None:
            try:
                return await self._streams.insert(StreamRecord(id=user_id, epoch=new_id("epoch")))
            except Conflict:
                return await self.stream(user_id)
        return found

    async def append(self, told: rules.Told, user_id: str, way: Recipients) -> InboxRecord | None:
        """The user's new entry; None when it has been told before."""
        if await self._inbox.get(rules.inbox_id(user_id, told.id)) is not None:
            return None
        await self.stream(user_id)
        stream = await self._streams.update(user_id, _one_more)
        return await self._inbox.insert(rules.entry(told, user_id, way, stream))

    async def page(self, user_id: str, listing: Listing, *, unread: bool | None) -> tuple[list[InboxRecord], int]:
        """One page of the user's inbox, newest first, and how many there are; `unread` None means all."""
        scope = _unread(user_id) if unread else (Where("userId", "eq", user_id),)
        if unread is False:
            scope = (*scope, Where("readAt", "ne", None))
        listing = replace(listing, sort=listing.sort or "-seq")
        query = to_query(
            listing, filterable=_FILTERS, sortable=_SORTS, search=("name", "title", "message"), scope=scope
        )
        return await self._inbox.find(query), await self._inbox.count(query.where)

    async def unread(self, user_id: str) -> int:
        """How many the user has not read."""
        return await self._inbox.count(_unread(user_id))

    async def read(self, user_id: str, notification_ids: Sequence[str]) -> list[InboxRecord]:
        """Marks entries as read; doing it again changes nothing. `NotFound` when one is not the user's."""
        return [await self._mark(user_id, each) for each in notification_ids]

    async def read_all(self, user_id: str) -> int:
        """Marks everything there is now as read; how many were not."""
        query = Query(_unread(user_id), sort=("seq",), limit=_BATCH)
        marked = 0
        while entries := await self._inbox.find(query):
            await asyncio.gather(*(self._mark(user_id, each.notification_id) for each in entries))
            marked += len(entries)
        return marked

    async def _mark(self, user_id: str, notification_id: str) -> InboxRecord:
        now = self._clock.now()

        def mark(record: InboxRecord) -> InboxRecord:
            return record if record.read_at else record.model_copy(update={"read_at": now})

        try:
            return await self._inbox.update(rules.inbox_id(user_id, notification_id), mark)
        except NotFound as error:
            raise NotFound(
                f"cannot find notification {notification_id}: your inbox has none of that id",
                code="NOTIFICATION_NOT_FOUND",
            ) from error


def _one_more(stream: StreamRecord) -> StreamRecord:
    return stream.model_copy(update={"last_seq": stream.last_seq + 1})


def _unread(user_id: str) -> tuple[Condition, ...]:
    return (Where("userId", "eq", user_id), Where("readAt", "eq", None))
