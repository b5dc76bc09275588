"""Conditions, sorts and indexes as SQL over one table of JSON documents. Pure: text and parameters, no connection.

A field is one expression that yields its sortable value (a time's milliseconds, else the scalar itself), written out
with its path as a literal, because SQLite uses an expression index only where the same text stands in the query.
Beside it stands the value's JSON type, since 1, true and a time of 1 ms would be equal otherwise.
"""

from collections.abc import Sequence
from datetime import datetime

import orjson

from aiwm.infra.store import documents
from aiwm.infra.store.port import Condition, Index, Query, Scalar, Where
from aiwm.infra.store.sqlite_text import milliseconds

Parameter = str | int | float
Clause = tuple[str, list[Parameter]]

_ORDER = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_NEVER: Clause = ("0", [])


def table(collection: str) -> str:
    """The collection's table, quoted."""
    return f'"{documents.collection_name(collection)}"'


def create_table(collection: str) -> str:
    """Makes the collection's table if it is missing."""
    columns = "id TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, doc TEXT NOT NULL"
    return f"CREATE TABLE IF NOT EXISTS {table(collection)} ({columns})"


def create_index(index: Index) -> str:
    """Makes the index if it is missing. A null is in no unique index, which is what SQL says of nulls anyway."""
    name = f'"{documents.collection_name(index.collection)}.{documents.index_name(index)}"'
    values = [_value(field) for field in index.fields]
    kind = "UNIQUE INDEX" if index.unique else "INDEX"
    partial = f" WHERE {values[0]} IS NOT NULL" if index.unique else ""
    return f"CREATE {kind} IF NOT EXISTS {name} ON {table(index.collection)} ({', '.join(values)}){partial}"


def select(collection: str, query: Query) -> Clause:
    """Rows of `id`, `version` and text that match, in order."""
    condition, parameters = matching(query.where)
    order = ", ".join(
        f"{_value(field)} DESC" if descends else _value(field) for field, descends in documents.sort_keys(query.sort)
    )
    limit = -1 if query.limit is None else query.limit
    statement = f"SELECT id, version, doc FROM {table(collection)} WHERE {condition} ORDER BY {order} LIMIT ? OFFSET ?"  # noqa: S608 - names are checked, values are parameters
    return statement, [*parameters, limit, query.skip]


def matching(where: Sequence[Condition]) -> Clause:
    """What must hold, as one expression."""
    return _joined(" AND ", [_joined(" OR ", [_clause(each) for each in documents.alternatives(one)]) for one in where])


def _joined(word: str, clauses: list[Clause]) -> Clause:
    if not clauses:
        return ("1" if word == " AND " else "0", [])
    return "(" + word.join(text for text, _ in clauses) + ")", [each for _, values in clauses for each in values]


def _path(field: str) -> str:
    return "$" + "".join(f'."{step}"' for step in documents.field_path(field))


def _value(field: str) -> str:
    if field in ("id", "version"):
        return field
    path = _path(field)
    return f"coalesce(json_extract(doc, '{path}.\"$date\"'), json_extract(doc, '{path}'))"


def _type(field: str) -> str:
    own = {"id": "'text'", "version": "'integer'"}
    return own.get(field) or f"json_type(doc, '{_path(field)}')"


def _clause(where: Where) -> Clause:
    if documents.never(where):
        return _NEVER
    if where.op == "in":
        return _among(where)
    if where.op == "has":
        return _has(where)
    if where.op == "contains":
        return f"(contains({_value(where.field)}, ?) AND {_type(where.field)} = 'text')", [documents.needle(where)]
    value = documents.operand(where)
    if where.op == "eq":
        return _equal(where.field, value)
    if where.op == "ne":
        return _unequal(where.field, value)
    return (
        f"({_value(where.field)} {_ORDER[where.op]} ? AND {_type(where.field)} IN {_types(value)})",
        [_parameter(value)],
    )


def _equal(field: str, value: Scalar) -> Clause:
    if value is None:
        return f"{_value(field)} IS NULL", []
    return f"({_value(field)} = ? AND {_type(field)} IN {_types(value)})", [_parameter(value)]


def _unequal(field: str, value: Scalar) -> Clause:
    if value is None:
        # Not IS NOT NULL, for which no index is used: every value is above the least number.
        return f"{_value(field)} >= -9e999", []
    text, parameters = _equal(field, value)
    return f"NOT coalesce({text}, 0)", parameters


def _among(where: Where) -> Clause:
    values = documents.operands(where)
    clauses: list[Clause] = [_equal(where.field, None)] if None in values else []
    by_type: dict[str, list[Parameter]] = {}
    for value in values:
        if value is not None:
            by_type.setdefault(_types(value), []).append(_parameter(value))
    for types, members in by_type.items():
        # One parameter for all members: there may be more of them than a statement takes parameters.
        listed = "(SELECT member.value FROM json_each(?) AS member)"
        text = f"({_value(where.field)} IN {listed} AND {_type(where.field)} IN {types})"
        clauses.append((text, [orjson.dumps(members).decode()]))
    return _joined(" OR ", clauses)


def _has(where: Where) -> Clause:
    value = documents.operand(where)
    path = _path(where.field)
    if value is None:
        test, parameters = "member.type = 'null'", list[Parameter]()
    else:
        atom = "json_extract(member.value, '$.\"$date\"')" if isinstance(value, datetime) else "member.value"
        test, parameters = f"member.type IN {_types(value)} AND {atom} = ?", [_parameter(value)]
    each = f"SELECT 1 FROM json_each(doc, '{path}') AS member WHERE {test}"  # noqa: S608 - the path is checked
    return f"(json_type(doc, '{path}') = 'array' AND EXISTS ({each}))", parameters


def _types(value: Scalar) -> str:
    if isinstance(value, bool):
        return "('true', 'false')"
    if isinstance(value, int | float):
        return "('integer', 'real')"
    return "('object')" if isinstance(value, datetime) else "('text')"


def _parameter(value: Scalar) -> Parameter:
    assert value is not None  # noqa: S101 - null has its own clauses
    return milliseconds(value) if isinstance(value, datetime) else value
