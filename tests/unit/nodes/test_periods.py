"""What time a query of metrics is about, and the points it gets."""

import math
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import NOW, later

from aiwm.nodes.periods import Period, period
from aiwm.nodes.resampling import grid, joined, of_hours, of_slots
from aiwm.nodes.rings import SLOTS
from aiwm.protocol.errors import Invalid
from aiwm.protocol.resources.node_metrics import MOST_POINTS

WEEK = 7 * 86_400


@pytest.mark.parametrize(
    ("begin", "end", "step", "expected"),
    [
        (None, None, None, Period(later(-3600), NOW, 10)),
        (None, later(-60), None, Period(later(-3660), later(-60), 10)),
        (later(-15_000), None, None, Period(later(-15_000), NOW, 10)),
        (later(-86_400), None, None, Period(later(-86_400), NOW, 60)),
        (later(-WEEK - 1), None, None, Period(later(-WEEK - 1), NOW, 420)),
        (later(-600), None, 3600, Period(later(-600), NOW, 3600)),
    ],
)
def test_what_is_left_out_is_the_last_hour_as_finely_as_fits(
    begin: datetime | None, end: datetime | None, step: int | None, expected: Period
) -> None:
    assert period(begin, end, step, now=NOW) == expected


@pytest.mark.parametrize(
    ("begin", "end", "step", "code", "field"),
    [
        (NOW, NOW, None, "METRICS_RANGE_INVALID", "from"),
        (later(10), None, None, "METRICS_RANGE_INVALID", "from"),
        (later(-WEEK - 3600), None, None, "METRICS_RANGE_INVALID", "from"),
        (None, later(3600), None, "METRICS_RANGE_INVALID", "to"),
        (later(-86_400), None, 57, "METRICS_TOO_MANY", "step"),
    ],
)
def test_what_cannot_be_answered_names_the_field_and_what_to_do(
    begin: datetime | None, end: datetime | None, step: int | None, code: str, field: str
) -> None:
    with pytest.raises(Invalid) as caught:
        period(begin, end, step, now=NOW)
    assert caught.value.code == code
    assert [each.field for each in caught.value.fields or []] == [field]


def test_the_refusal_of_too_many_points_says_the_least_step() -> None:
    with pytest.raises(Invalid, match="ask for 58 seconds or more"):
        period(later(-86_400), None, 10, now=NOW)


@given(st.integers(10, WEEK), st.integers(0, 100_000))
def test_whatever_is_answered_has_few_points_and_covers_what_was_asked(seconds: int, start: int) -> None:
    asked = period(later(-seconds), NOW, None, now=NOW)
    to = grid(start, start + seconds, asked.step)
    assert to.count <= MOST_POINTS + 1
    assert to.start <= start < to.start + to.step
    assert to.end >= start + seconds


def test_a_coarse_step_is_the_mean_of_its_slots_and_a_fine_one_repeats_a_minute() -> None:
    slots = [math.nan] * SLOTS
    slots[0:6] = [10, 20, 30, math.nan, 50, 60]
    assert of_slots(grid(0, 60, 20), slots, 5) == [15, 30, 55]
    assert of_hours(grid(0, 120, 30), [(0, [1.0, None])]) == [1, 1, None, None]
    assert of_hours(grid(0, 240, 120), [(0, [1.0, 2.0, 3.0, None])]) == [1.5, 3]
    assert of_hours(grid(3590, 3700, 60), [(0, [None] * 59 + [7.0]), (3600, [8.0])]) == [7, 8, None]


def test_what_a_ring_no_longer_holds_is_not_read_from_it() -> None:
    slots = [float(slot) for slot in range(SLOTS)]
    last = SLOTS + 9
    assert of_slots(grid(0, 200, 10), slots, last)[:11] == [None] * 10 + [10.0]


def test_the_finer_value_counts_where_there_is_one() -> None:
    assert joined([None, 1.0], [5.0, 6.0]) == [5, 1]
