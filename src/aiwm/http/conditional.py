"""Conditional requests: `If-Match` carries the `resourceVersion` a change was made for."""

from typing import Annotated

from fastapi import Header

from aiwm.protocol.errors import FieldError, Invalid, Stale


def if_match(value: Annotated[str | None, Header(alias="If-Match")] = None) -> int | None:
    """A dependency: the version asked for, None when any will do."""
    if value is None or value.strip() == "*":
        return None
    text = value.strip().removeprefix("W/").strip('"')
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        message = 'must be a resourceVersion, such as "3"'
        raise Invalid(
            f"cannot accept the request: If-Match {message}",
            fields=[FieldError(field="If-Match", message=message, code="IF_MATCH_INVALID")],
        )
    return int(text)


def check_version(expected: int | None, actual: int) -> None:
    """Raises `Stale` (`VERSION_MISMATCH`) unless `expected` is None or `actual`."""
    if expected is not None and expected != actual:
        raise Stale(
            f"cannot change this: it is at resourceVersion {actual}, not {expected}; read it again",
            details={"resourceVersion": actual},
        )
