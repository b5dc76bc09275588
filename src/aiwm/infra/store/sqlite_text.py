"""Records as JSON text, such that SQLite can order times and no user's value can pass for one.

A time is `{"$date": milliseconds}`. A key that itself begins with `$` is written with one more, so that `$date` as the
first and only key is always ours. `id` and `version` are columns of their own.
"""

from datetime import UTC, datetime, timedelta

import orjson

from aiwm.infra.store.documents import MAX_BYTES, PLAIN, check_depth, key, scalar
from aiwm.infra.store.port import Record
from aiwm.protocol.errors import Invalid, TooLarge

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970."""
    return (moment - _EPOCH) // _MILLISECOND


def to_text(record: Record) -> str:
    """The record without `id` and `version`; `Invalid` or `TooLarge` for what cannot be kept."""
    fields = {name: value for name, value in record.items() if name not in ("id", "version")}
    encoded = _encoded(fields, 1)
    try:
        text = orjson.dumps(encoded)
    except orjson.JSONEncodeError as error:
        raise Invalid(f"cannot store the record: {error}") from error
    if len(text) > MAX_BYTES:
        raise TooLarge(f"cannot store the record: its {len(text)} bytes are more than {MAX_BYTES}")
    return text.decode()


def _encoded(value: object, depth: int) -> object:
    if type(value) in PLAIN:
        return value
    if isinstance(value, dict):
        check_depth(depth)
        return {
            name if type(name) is str and name[:1] != "$" else _key_out(name): _encoded(each, depth + 1)
            for name, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        check_depth(depth)
        return [_encoded(each, depth + 1) for each in value]
    kept = scalar(value)
    return {"$date": milliseconds(kept)} if isinstance(kept, datetime) else kept


def _key_out(name: object) -> str:
    text = key(name)
    return f"${text}" if text.startswith("$") else text


def from_row(row: tuple[str, int, str]) -> Record:
    """The record that a row (`id`, `version`, text) holds."""
    record: Record = {"id": row[0], "version": row[1]}
    for name, value in orjson.loads(row[2]).items():
        record[_key_in(name)] = _decoded(value)
    return record


def _decoded(value: object) -> object:
    if isinstance(value, dict):
        if "$date" in value:
            return _EPOCH + value["$date"] * _MILLISECOND
        return {_key_in(name): _decoded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return value


def _key_in(name: str) -> str:
    return name[1:] if name.startswith("$") else name
