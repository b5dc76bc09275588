"""A store in which something else happens between a read and its answer, as it does when several processes use it."""

from collections.abc import Awaitable, Callable

from aiwm.infra.store.port import Query, Record, Store


class HeldStore:
    """The next `find` in `collection` reads at once, and answers only after `meanwhile` has been done."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.collection = ""
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def hold(self, collection: str, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self.collection, self.meanwhile = collection, meanwhile

    async def find(self, collection: str, query: Query) -> list[Record]:
        found = await self._store.find(collection, query)
        if collection == self.collection and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return found
