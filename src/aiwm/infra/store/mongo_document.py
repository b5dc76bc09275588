"""Records as BSON documents, such that every key and every null survives.

`id` is `_id`. A key may hold what MongoDB reserves (`.`, `$`, NUL): those are percent-encoded. A null field is left out
and named under `%null` instead, because a missing field equals null here, and a sparse index tells them apart.
"""

import re
from typing import Any

from bson.int64 import Int64

from aiwm.infra.store.documents import PLAIN, check_depth, key, scalar
from aiwm.infra.store.port import Record

Document = dict[str, Any]

_NULLS = "%null"
_RESERVED = re.compile(r"[%.$\0]")
_ESCAPED = re.compile(r"%([0-9A-F]{2})")


def to_document(record: Record, version: int) -> Document:
    """The record as it is stored, with that version; `Invalid` for what cannot be kept."""
    fields = {name: value for name, value in record.items() if name not in ("id", "version")}
    document = {"_id": record["id"], "version": version}
    document.update(_dict_out(fields, 1))
    return document


def _dict_out(value: dict[Any, object], depth: int) -> Document:
    check_depth(depth)
    document = {_key_out(name): _encoded(each, depth + 1) for name, each in value.items() if each is not None}
    if nulls := [key(name) for name, each in value.items() if each is None]:
        document[_NULLS] = nulls
    return document


def _encoded(value: object, depth: int) -> object:
    if type(value) in PLAIN:
        return value
    if isinstance(value, dict):
        return _dict_out(value, depth)
    if isinstance(value, (list, tuple)):
        check_depth(depth)
        return [_encoded(each, depth + 1) for each in value]
    return scalar(value)


def _key_out(name: object) -> str:
    # `_id` at the top is the record's own id, so a field of that name is told apart by its first letter.
    text = _RESERVED.sub(lambda found: f"%{ord(found[0]):02X}", key(name))
    return "%5Fid" if text == "_id" else text


def from_document(document: Document) -> Record:
    """The record a stored document holds."""
    record: Record = {"id": document.pop("_id"), "version": document.pop("version")}
    record.update(_dict_in(document))
    return record


def _dict_in(document: Document) -> Record:
    record: Record = {_key_in(name): _decoded(each) for name, each in document.items() if name != _NULLS}
    record.update(dict.fromkeys(document.get(_NULLS, ())))
    return record


def _decoded(value: object) -> object:
    if isinstance(value, dict):
        return _dict_in(value)
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return int(value) if isinstance(value, Int64) else value


def _key_in(name: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name) if "%" in name else name
