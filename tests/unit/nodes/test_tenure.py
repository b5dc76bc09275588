"""When a node's token is renewed."""

from datetime import UTC, datetime, timedelta

import pytest

from aiwm.nodes.tenure import Tenure, renewal_due

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("life", "left_when_due"),
    [
        (365 * DAY, 73 * DAY),
        (30 * DAY, 6 * DAY),
        (3 * DAY, DAY),
        (DAY, DAY / 2),
        (timedelta(minutes=1), timedelta(seconds=30)),
    ],
)
def test_a_token_is_renewed_before_its_last_fifth_or_day_but_never_in_its_first_half(
    life: timedelta, left_when_due: timedelta
) -> None:
    held = Tenure(START, START + life)
    moment, second = held.expires_at - left_when_due, timedelta(seconds=1)
    assert not renewal_due(held, now=moment - second)
    assert renewal_due(held, now=moment + second)
