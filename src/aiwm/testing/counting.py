"""Counts what goes through the store port, to see that it grows with the nodes and with nothing else."""

from collections import Counter
from typing import Any, cast

from aiwm.infra.store.port import Store

_READS = frozenset({"get", "find", "count"})
_WRITES = frozenset({"insert", "replace", "delete", "delete_range"})


class StoreCounts:
    """`operations` by method and collection."""

    def __init__(self) -> None:
        self.operations: Counter[tuple[str, str]] = Counter()

    @property
    def reads(self) -> int:
        return sum(count for (method, _), count in self.operations.items() if method in _READS)

    @property
    def writes(self) -> int:
        return sum(count for (method, _), count in self.operations.items() if method in _WRITES)

    def over(self, store: Store) -> Store:
        """The same store, counted."""
        return cast(Store, _Counted(store, self.operations))


class _Counted:
    def __init__(self, store: Store, operations: "Counter[tuple[str, str]]") -> None:
        self._store, self._operations = store, operations

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in _READS | _WRITES:
            return method

        async def counted(collection: str, *args: Any, **options: Any) -> Any:
            self._operations[name, collection] += 1
            return await method(collection, *args, **options)

        return counted
