"""Conditions, sorts and indexes as MongoDB filters. Pure: documents, no connection.

MongoDB lets a condition on a list hold for any of its elements, and a path lead through lists; the port does not, so
the conditions say that there is no list.
"""

import re
from collections.abc import Sequence
from typing import Any

from aiwm.infra.store import documents
from aiwm.infra.store.port import Condition, Index, Where

Filter = dict[str, Any]

_NEVER: Filter = {"_id": {"$in": []}}
_LIST = {"$type": "array"}


def matching(where: Sequence[Condition]) -> Filter:
    """What must hold."""
    return _joined("$and", [_one(condition) for condition in where]) if where else {}


def _one(condition: Condition) -> Filter:
    clauses = [_clause(each) for each in documents.alternatives(condition)]
    return _joined("$or", clauses) if clauses else _NEVER


def _joined(operator: str, clauses: list[Filter]) -> Filter:
    return clauses[0] if len(clauses) == 1 else {operator: clauses}


def _field(path: str) -> str:
    documents.field_path(path)
    return "_id" if path == "id" else path


def _clause(where: Where) -> Filter:
    field = _field(where.field)
    if documents.never(where):
        return _NEVER
    steps = where.field.split(".")
    lists = [{".".join(steps[:length]): _LIST} for length in range(1, len(steps))]
    if not lists:
        return _on(field, where)
    # A path does not lead through lists: behind one there is nothing.
    if _holds_for_nothing(where):
        return {"$or": [_on(field, where), *lists]}
    return {"$and": [_on(field, where), {"$nor": lists}]}


def _holds_for_nothing(where: Where) -> bool:
    if where.op == "in":
        return None in documents.operands(where)
    return (where.op == "eq" and where.value is None) or (where.op == "ne" and where.value is not None)


def _on(field: str, where: Where) -> Filter:
    if where.op == "has":
        return {field: {"$elemMatch": {"$eq": documents.operand(where)}}}
    if where.op == "ne":
        return _unequal(field, where)
    if field == "_id":
        return {field: _test(where)}
    return {"$and": [{field: _test(where)}, {field: {"$not": _LIST}}]}


def _unequal(field: str, where: Where) -> Filter:
    value = documents.operand(where)
    unequal: Filter = {field: {"$ne": value}}
    # A list is unequal to any single value, also to one that is in it.
    return unequal if field == "_id" else {"$or": [unequal, {field: _LIST}]}


def _test(where: Where) -> Filter:
    if where.op == "in":
        return {"$in": list(documents.operands(where))}
    if where.op == "contains":
        return {"$regex": re.escape(documents.needle(where)), "$options": "i"}
    return {f"${where.op}": documents.operand(where)}


def order(sort: Sequence[str]) -> list[tuple[str, int]]:
    """The sort, total."""
    return [(_field(field), -1 if descends else 1) for field, descends in documents.sort_keys(sort)]


def index_keys(index: Index) -> list[tuple[str, int]]:
    """The index's fields."""
    return [(_field(field), 1) for field in index.fields]
