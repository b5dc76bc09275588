"""Counts what goes through the store port, to see that it grows with the nodes and with nothing else."""

from collections import Counter
from typing import Any, cast

from aiwm.infra.store.port import Store

_RECORDS = frozenset({"get", "insert", "replace", "delete"})
_QUERIES = frozenset({"find", "count", "delete_range"})


class StoreCounts:
    """`operations` by method and collection."""

    def __init__(self) -> None:
        self.operations: Counter[tuple[str, str]] = Counter()

    @property
    def records(self) -> int:
        """Reads and writes of one record each: what a node costs."""
        return sum(count for (method, _), count in self.operations.items() if method in _RECORDS)

    @property
    def queries(self) -> int:
        """Looks at many records at once: what a controller does now and then, however many nodes there are."""
        return sum(count for (method, _), count in self.operations.items() if method in _QUERIES)

    def of(self, collection: str) -> int:
        """Operations on one collection's records."""
        return sum(
            count for (method, name), count in self.operations.items() if method in _RECORDS and name == collection
        )

    def over(self, store: Store) -> Store:
        """The same store, counted."""
        return cast(Store, _Counted(store, self.operations))


class _Counted:
    def __init__(self, store: Store, operations: "Counter[tuple[str, str]]") -> None:
        self._store, self._operations = store, operations

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in _RECORDS | _QUERIES:
            return method

        async def counted(collection: str, *args: Any, **options: Any) -> Any:
            self._operations[name, collection] += 1
            return await method(collection, *args, **options)

        return counted
