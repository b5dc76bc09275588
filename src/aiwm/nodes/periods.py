"""What time a query of measurements is about, and how finely: pure."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiwm.kit.clock import seconds_between
from aiwm.protocol.errors import FieldError, Invalid
from aiwm.protocol.resources.node_metrics import KEPT_SECONDS, MOST_POINTS, SHORTEST_STEP_SECONDS

_USUAL = timedelta(hours=1)
# A query for exactly a week takes a moment to arrive.
_LEEWAY = timedelta(minutes=5)
_MINUTE = 60


@dataclass(frozen=True, slots=True)
class Period:
    """From `begin` to `end`, in steps of `step` seconds."""

    begin: datetime
    end: datetime
    step: int


def period(begin: datetime | None, end: datetime | None, step: int | None, *, now: datetime) -> Period:
    """What was asked for, the rest filled in: the last hour, as finely as is known and fits in one answer.

    `Invalid`: `METRICS_RANGE_INVALID`, `METRICS_TOO_MANY`.
    """
    end = now if end is None else end
    begin = end - _USUAL if begin is None else begin
    if begin >= end:
        raise _wrong("from", "it must lie before `to`")
    if begin < now - timedelta(seconds=KEPT_SECONDS) - _LEEWAY:
        raise _wrong("from", "measurements are kept for a week; ask for a later time")
    if end > now + _LEEWAY:
        raise _wrong("to", "it lies in the future; leave it out for all until now")
    seconds = seconds_between(begin, end)
    least = math.ceil(seconds / MOST_POINTS)
    if step is None:
        step = SHORTEST_STEP_SECONDS if least <= SHORTEST_STEP_SECONDS else math.ceil(least / _MINUTE) * _MINUTE
    if step < least:
        reason = f"it makes more than {MOST_POINTS} points; ask for {least} seconds or more, or for a shorter time"
        raise _wrong("step", reason, code="METRICS_TOO_MANY")
    return Period(begin, end, step)


def _wrong(field: str, reason: str, *, code: str = "METRICS_RANGE_INVALID") -> Invalid:
    return Invalid(
        f"cannot read metrics: {field}: {reason}",
        code=code,
        fields=[FieldError(field=field, message=reason, code=code)],
    )
