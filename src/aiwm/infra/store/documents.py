"""What every backend agrees to keep: plain JSON and times, 64-bit integers, finite floats, bounded size and depth.

The bounds are BSON's, held for SQLite too, so that nothing works on one backend and fails on the other. What users
can cause is refused as `Invalid` or `TooLarge`; what only a bug can cause is a `TypeError` or a `ValueError`.
"""

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from aiwm.infra.store.port import Any, Condition, Index, Record, Scalar, Where
from aiwm.kit.clock import whole_milliseconds
from aiwm.protocol.errors import Invalid

MAX_BYTES = 16_000_000
MAX_DEPTH = 64
PLAIN = frozenset({str, bool, type(None)})
"""Types whose values need no look: most of what a record holds."""

_COLLECTION = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_FIELD = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_BITS_64 = range(-(2**63), 2**63)
_ORDERS = frozenset({"lt", "lte", "gt", "gte"})


def scalar(value: object) -> Scalar:
    """`value` as every backend keeps it: times in UTC with whole milliseconds; `Invalid` for what none can keep."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        if value not in _BITS_64:
            raise Invalid(f"cannot store the number {str(value)[:24]}: integers have at most 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid(f"cannot store the number {value}: JSON has no such number")
        return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"a stored time needs a time zone: {value!r}")
        return whole_milliseconds(value.astimezone(UTC))
    raise TypeError(f"a record holds JSON and times, not {type(value).__name__}")


def check_depth(depth: int) -> None:
    """`Invalid` when a record is nested deeper than `MAX_DEPTH`."""
    if depth > MAX_DEPTH:
        raise Invalid(f"cannot store the record: it is nested deeper than {MAX_DEPTH} levels")


def key(name: object) -> str:
    """A dict's key, which must be text."""
    if not isinstance(name, str):
        raise TypeError(f"the keys of a record are text, not {type(name).__name__}")
    return name


def record_id(record: Record) -> str:
    """The record's key."""
    found = record.get("id")
    if not isinstance(found, str) or not found:
        raise ValueError(f"a record needs a text `id`, not {found!r}")
    return found


def collection_name(name: str) -> str:
    """`name`, safe to be written into a statement."""
    if not _COLLECTION.fullmatch(name):
        raise ValueError(f"not a collection's name: {name!r}")
    return name


def field_path(path: str) -> tuple[str, ...]:
    """The steps of a dotted path, each safe to be written into a statement; `Invalid` for any other."""
    if not _FIELD.fullmatch(path):
        raise Invalid(f"cannot query by {path!r}: a field is letters, digits, `_` and `-`, with dots between")
    return tuple(path.split("."))


def never(where: Where) -> bool:
    """Whether nothing can match: an empty `in`, or an order against null."""
    return (where.op == "in" and not where.value) or (where.op in _ORDERS and where.value is None)


def operand(where: Where) -> Scalar:
    """The single value of a condition."""
    if isinstance(where.value, tuple):
        raise TypeError(f"`{where.op}` compares with one value, not with several")
    return scalar(where.value)


def operands(where: Where) -> tuple[Scalar, ...]:
    """The values of an `in`."""
    if not isinstance(where.value, tuple):
        raise TypeError("`in` compares with a tuple of values")
    return tuple(scalar(each) for each in where.value)


def needle(where: Where) -> str:
    """The text a `contains` looks for."""
    value = operand(where)
    if not isinstance(value, str):
        raise TypeError(f"`contains` looks for text, not for {type(value).__name__}")
    if "\0" in value:
        raise Invalid("cannot search for text with a NUL character: no backend can")
    return value


def alternatives(condition: Condition) -> tuple[Where, ...]:
    """The conditions of which one must hold."""
    return condition.conditions if isinstance(condition, Any) else (condition,)


def sort_keys(sort: Iterable[str]) -> list[tuple[str, bool]]:
    """Field and whether it descends, each field once, ending with `id` so that the order is total."""
    keys: dict[str, bool] = {}
    for each in (*sort, "id"):
        keys.setdefault(each.removeprefix("-"), each.startswith("-"))
    return list(keys.items())


def index_name(index: Index) -> str:
    """The index's own name, else one made of its fields."""
    if not index.fields or (index.unique and len(index.fields) > 1):
        raise ValueError("an index has fields, and a unique one exactly one: join several into a `uniqueKey`")
    made = "_".join(field.replace(".", "_") for field in index.fields) + ("_unique" if index.unique else "")
    return collection_name(index.name or made)
