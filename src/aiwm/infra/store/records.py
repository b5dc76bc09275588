"""Typed records over the store port: documents in, models out, and compare-and-set loops written once."""

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from aiwm.infra.store.port import Condition, Query, Record, Store
from aiwm.kit.context import correlation_id
from aiwm.kit.ids import new_id
from aiwm.protocol.base import Timestamp
from aiwm.protocol.errors import Conflict, NotFound, Stale
from aiwm.protocol.resources.base import Metadata, Owner

_ATTEMPTS = 100


class StoredRecord(BaseModel):
    """A record: its key, and the store's own count of writes."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", protected_namespaces=())

    id: str
    version: int = 0


class OwnedRecord(StoredRecord):
    """A record a user made: whose it is, who touched it, and how often what users set has changed.

    `unique_key` holds the name that must be unique while the record is not deleted; it is unset by a delete.
    """

    owner: Owner
    created_by: str | None = None
    updated_by: str | None = None
    created_at: Timestamp
    updated_at: Timestamp
    deleted_at: Timestamp | None = None
    resource_version: int = 1
    metadata: Metadata = {}
    unique_key: str | None = None
    correlation_id: str | None = None

    def base(self) -> dict[str, object]:
        """The fields every resource shows, under their Python names."""
        shared = ("owner", "created_by", "updated_by", "created_at", "updated_at", "deleted_at")
        return {name: getattr(self, name) for name in (*shared, "resource_version", "metadata")}


R = TypeVar("R", bound=StoredRecord)


class Records(Generic[R]):
    """One collection as models of one type."""

    def __init__(self, store: Store, collection: str, kind: type[R]) -> None:
        self._store, self.collection, self._kind = store, collection, kind

    async def insert(self, record: R) -> R:
        """Stores a new record; `Conflict` when its id or unique key exists."""
        await self._store.insert(self.collection, _document(record))
        return record.model_copy(update={"version": 1})

    async def get(self, record_id: str) -> R | None:
        """The record, or None."""
        found = await self._store.get(self.collection, record_id)
        return None if found is None else self._kind.model_validate(found)

    async def find(self, query: Query) -> list[R]:
        """The records that match."""
        return [self._kind.model_validate(found) for found in await self._store.find(self.collection, query)]

    async def count(self, where: Sequence[Condition] = ()) -> int:
        """How many match."""
        return await self._store.count(self.collection, where)

    async def replace(self, record: R) -> R:
        """Writes `record` over the version it was read at; `Stale` when somebody else wrote first."""
        if not await self._store.replace(self.collection, _document(record), version=record.version):
            raise Stale(f"cannot change {record.id}: it changed in the meantime")
        return record.model_copy(update={"version": record.version + 1})

    async def update(self, record_id: str, change: Callable[[R], R]) -> R:
        """Reads, changes and writes until nobody came between; `NotFound` when there is no such record.

        `change` may be called several times; returning the record it was given writes nothing.
        """
        for _ in range(_ATTEMPTS):
            current = await self.get(record_id)
            if current is None:
                raise NotFound(f"cannot change {record_id}: there is no such record")
            changed = change(current)
            if changed is current:
                return current
            try:
                return await self.replace(changed)
            except Stale:
                continue
        raise Conflict(f"cannot change {record_id}: too many others change it at once", code="CONTENDED")

    async def delete(self, record_id: str) -> bool:
        """Removes the record for good; whether it was there."""
        return await self._store.delete(self.collection, record_id)


def _document(record: StoredRecord) -> Record:
    plain = _plain(record.model_dump(mode="python", by_alias=True, exclude_none=True))
    assert isinstance(plain, dict)  # noqa: S101 - a model always dumps to a dict
    return plain


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


Owned = TypeVar("Owned", bound=OwnedRecord)


def new_base(prefix: str, *, owner: Owner, by: str | None, at: datetime) -> dict[str, object]:
    """The fields every new record of a user begins with, a fresh id among them."""
    return {
        "id": new_id(prefix),
        "owner": owner,
        "created_by": by,
        "updated_by": by,
        "created_at": at,
        "updated_at": at,
        "correlation_id": correlation_id(),
    }


def changed_by_user(record: Owned, changes: dict[str, object], *, by: str | None, at: datetime) -> Owned:
    """`record` with what a user set, its `resource_version` one higher."""
    touched = {"updated_at": at, "updated_by": by, "correlation_id": correlation_id()}
    return record.model_copy(update={**changes, **touched, "resource_version": record.resource_version + 1})


def soft_deleted(record: Owned, *, by: str | None, at: datetime) -> Owned:
    """`record` as deleted: its name is free again, its id stays taken for good."""
    return changed_by_user(record, {"deleted_at": at, "unique_key": None}, by=by, at=at)
