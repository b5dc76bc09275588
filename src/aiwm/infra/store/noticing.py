"""A store that says what was changed through it, for those who remember what they read a moment ago."""

from collections.abc import Callable, Sequence

from aiwm.infra.store.port import Condition, Index, Query, Record, Store

Notice = Callable[[str, str | None], None]


class NoticingStore:
    """`store`, calling `notice(collection, id)` after every change to a record; None stands for several ids."""

    def __init__(self, store: Store, notice: Notice) -> None:
        self._store, self._notice = store, notice

    async def insert(self, collection: str, record: Record) -> None:
        await self._store.insert(collection, record)

    async def get(self, collection: str, record_id: str) -> Record | None:
        return await self._store.get(collection, record_id)

    async def replace(self, collection: str, record: Record, *, version: int) -> bool:
        try:
            return await self._store.replace(collection, record, version=version)
        finally:
            # Also after a failure: a write that was cut off may have happened.
            self._notice(collection, str(record["id"]))

    async def find(self, collection: str, query: Query) -> list[Record]:
        return await self._store.find(collection, query)

    async def count(self, collection: str, where: Sequence[Condition] = ()) -> int:
        return await self._store.count(collection, where)

    async def delete(self, collection: str, record_id: str) -> bool:
        try:
            return await self._store.delete(collection, record_id)
        finally:
            self._notice(collection, record_id)

    async def delete_range(self, collection: str, where: Sequence[Condition]) -> int:
        try:
            return await self._store.delete_range(collection, where)
        finally:
            self._notice(collection, None)

    async def ensure_index(self, index: Index) -> None:
        await self._store.ensure_index(index)

    async def ping(self) -> None:
        await self._store.ping()

    async def close(self) -> None:
        await self._store.close()
