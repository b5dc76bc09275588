"""The correlation id of whatever is being done right now; it follows awaits and new tasks by itself."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from aiwm.kit.ids import new_id

_correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)
_TOKEN = re.compile(r"[\x21-\x7e]{1,128}")


def correlation_id() -> str | None:
    """The current correlation id, if there is one."""
    return _correlation_id.get()


def accept_correlation_id(offered: str | None) -> str:
    """`offered` if it is a printable token of at most 128 characters, else a new id."""
    return offered if offered and _TOKEN.fullmatch(offered) else new_id("corr")


@contextmanager
def correlated(value: str | None) -> Iterator[None]:
    """Within it, `value` is the current correlation id."""
    token = _correlation_id.set(value)
    try:
        yield
    finally:
        _correlation_id.reset(token)
