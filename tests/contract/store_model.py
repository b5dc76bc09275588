"""The port's meaning in plain Python: a dict of records, and what each condition says of one."""

import copy
from datetime import datetime

from aiwm.infra.store.port import Any, Condition, Query, Record, Scalar, Where


def value_at(record: Record, path: str) -> object:
    """The field's value; None when there is none. Paths lead through dicts only."""
    found: object = record
    for step in path.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return found


def kind_of(value: object) -> str:
    """Values of different kinds are never equal and have no order."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


def _equal(found: object, value: Scalar) -> bool:
    return kind_of(found) == kind_of(value) and found == value


def _ordered(found: object, op: str, value: Scalar) -> bool:
    if value is None or kind_of(found) != kind_of(value):
        return False
    assert isinstance(found, str | int | float | datetime)
    less, same = found < value, found == value  # type: ignore[operator]
    return {"lt": less, "lte": less or same, "gt": not less and not same, "gte": not less}[op]


def holds(record: Record, condition: Condition) -> bool:
    """Whether the condition holds for the record."""
    if isinstance(condition, Any):
        return any(holds(record, each) for each in condition.conditions)
    return _holds(value_at(record, condition.field), condition)


def _holds(found: object, where: Where) -> bool:
    if where.op == "in":
        assert isinstance(where.value, tuple)
        return any(_equal(found, value) for value in where.value)
    assert not isinstance(where.value, tuple)
    if where.op in ("eq", "ne"):
        return _equal(found, where.value) == (where.op == "eq")
    if where.op == "has":
        return isinstance(found, list) and any(_equal(each, where.value) for each in found)
    if where.op == "contains":
        return isinstance(found, str) and str(where.value).lower() in found.lower()
    return _ordered(found, where.op, where.value)


def _sort_value(record: Record, field: str) -> tuple[bool, object]:
    value = value_at(record, field)
    return (value is not None, 0 if value is None else value)


class Model:
    """One collection."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}

    def insert(self, record: Record) -> bool:
        """Whether it was new."""
        record_id = str(record["id"])
        if record_id in self.records or self._taken(record):
            return False
        self.records[record_id] = {**copy.deepcopy(record), "version": 1}
        return True

    def replace(self, record: Record, version: int) -> bool | None:
        """Whether it was written; None for a collision in the unique index."""
        current = self.records.get(str(record["id"]))
        if current is None or current["version"] != version:
            return False
        if self._taken(record):
            return None
        self.records[str(record["id"])] = {**copy.deepcopy(record), "version": version + 1}
        return True

    def _taken(self, record: Record) -> bool:
        unique = record.get("uniqueKey")
        return unique is not None and any(
            each.get("uniqueKey") == unique and each["id"] != record["id"] for each in self.records.values()
        )

    def find(self, query: Query) -> list[Record]:
        """The records that match, in order."""
        found = [each for each in self.records.values() if all(holds(each, one) for one in query.where)]
        found.sort(key=lambda record: str(record["id"]))
        for field in reversed(query.sort):
            name = field.removeprefix("-")
            found.sort(key=lambda record: _sort_value(record, name), reverse=field.startswith("-"))
        end = None if query.limit is None else query.skip + query.limit
        return found[query.skip : end]

    def delete_range(self, where: tuple[Condition, ...]) -> int:
        """How many were removed."""
        gone = [str(each["id"]) for each in self.find(Query(where))]
        for record_id in gone:
            del self.records[record_id]
        return len(gone)
