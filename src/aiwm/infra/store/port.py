"""The store port: documents in collections, compare-and-set writes, and queries simple enough for every backend.

A record is a JSON object with two reserved fields: `id` (string, its key) and `version` (integer, the store's own
count of writes: 1 after `insert`, +1 with every `replace`). Times are `datetime` in UTC with whole milliseconds, in
records and in conditions; everything else is JSON. Field names in conditions, sorts and indexes may be dotted paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

Record = dict[str, object]
Scalar = str | int | float | bool | datetime | None
Operator = Literal["eq", "ne", "lt", "lte", "gt", "gte", "in", "contains", "has"]


@dataclass(frozen=True, slots=True)
class Where:
    """One condition. `contains` is a case-insensitive substring of a text field; `has` is membership in a list field.

    A missing field equals null. `in` takes a tuple of scalars; an empty tuple matches nothing. Order comparisons match
    only values of the operand's own type.
    """

    field: str
    op: Operator
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """At least one of the conditions holds."""

    conditions: tuple[Where, ...]


Condition = Where | Any


@dataclass(frozen=True, slots=True)
class Query:
    """All of `where` hold; `sort` fields with a leading `-` descend; ties are broken by `id` ascending."""

    where: tuple[Condition, ...] = ()
    sort: tuple[str, ...] = ()
    limit: int | None = None
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Index:
    """An index over fields. A `unique` one has one field, and is sparse: a record without it is not in the index."""

    collection: str
    fields: tuple[str, ...]
    unique: bool = False
    name: str = field(default="")


class Store(Protocol):
    """Every method raises `Unavailable` when the backend cannot be reached.

    A write that returned survives the death of any process. Backends never hand out a record that a caller's later
    change to it could alter.
    """

    async def insert(self, collection: str, record: Record) -> None:
        """Stores a new record with `version` 1; `Conflict` (`DUPLICATE`) when its id or a unique key exists."""
        ...

    async def get(self, collection: str, record_id: str) -> Record | None:
        """The record, or None."""
        ...

    async def replace(self, collection: str, record: Record, *, version: int) -> bool:
        """Stores `record` with `version + 1` if the stored version is `version`; False when it is not (or it is gone).

        `Conflict` (code `DUPLICATE`) when it would collide in a unique index.
        """
        ...

    async def find(self, collection: str, query: Query) -> list[Record]:
        """The records that match."""
        ...

    async def count(self, collection: str, where: Sequence[Condition] = ()) -> int:
        """How many match."""
        ...

    async def delete(self, collection: str, record_id: str) -> bool:
        """Removes the record for good; whether it was there."""
        ...

    async def delete_range(self, collection: str, where: Sequence[Condition]) -> int:
        """Removes all that match (at least one condition is required); how many."""
        ...

    async def ensure_index(self, index: Index) -> None:
        """Makes the index if it is missing."""
        ...

    async def ping(self) -> None:
        """Returns when the backend answers."""
        ...

    async def close(self) -> None:
        """Ends every connection; what was acknowledged stays."""
        ...
