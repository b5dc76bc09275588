"""When most of a fleet vanishes at once, it is the controller that is cut off."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import NOW, later

from aiwm.nodes.isolation import Outlook, looked

FLEET = frozenset(f"node-{number}" for number in range(10))


def seen(*looks: tuple[float, frozenset[str]], registered: frozenset[str] = FLEET) -> Outlook:
    """The outlook after looks at seconds."""
    outlook = Outlook()
    for seconds, there in looks:
        outlook = looked(outlook, there, registered, at=later(seconds))
    return outlook


def first(count: int) -> frozenset[str]:
    return frozenset(sorted(FLEET)[:count])


def test_more_than_half_of_the_nodes_gone_within_a_minute_is_isolation() -> None:
    outlook = seen((0, FLEET), (5, first(7)), (59, first(4)))
    assert outlook.isolated
    assert outlook.missing == FLEET - first(4)
    assert outlook.population == 10


def test_half_of_the_nodes_is_not_more_than_half() -> None:
    assert not seen((0, FLEET), (5, first(5))).isolated


def test_fewer_than_three_nodes_never_make_an_isolation() -> None:
    two = first(2)
    assert not seen((0, two), (5, frozenset()), registered=two).isolated


def test_three_of_three_do() -> None:
    three = first(3)
    assert seen((0, three), (5, frozenset()), registered=three).isolated


def test_nodes_that_leave_one_by_one_over_hours_are_nodes_that_left() -> None:
    looks = [(minute * 120.0, first(10 - minute)) for minute in range(11)]
    for end in range(1, len(looks) + 1):
        assert not seen(*looks[:end]).isolated


def test_an_isolation_does_not_end_because_time_goes_by() -> None:
    assert seen((0, FLEET), (5, first(2)), (600, first(2)), (86_400, first(2))).isolated


def test_an_isolation_ends_when_half_of_the_fleet_is_back() -> None:
    cut = ((0, FLEET), (5, frozenset[str]()))
    assert seen(*cut, (100, first(4))).isolated
    assert not seen(*cut, (100, first(5))).isolated


def test_the_last_ones_that_stay_away_after_it_are_not_counted_again() -> None:
    outlook = seen((0, FLEET), (5, frozenset()), (100, first(6)), (200, first(6)))
    assert (outlook.isolated, outlook.missing) == (False, frozenset())


def test_deleted_nodes_are_nobody_s_loss() -> None:
    cut = seen((0, FLEET), (5, frozenset()))
    assert not looked(cut, frozenset(), first(2), at=later(10)).isolated


def test_a_controller_that_has_just_started_has_lost_nobody() -> None:
    assert not seen((0, frozenset())).isolated


LOOKS = st.lists(
    st.tuples(st.floats(0, 200, allow_nan=False), st.frozensets(st.sampled_from(sorted(FLEET)))), max_size=30
)


@given(LOOKS)
def test_whatever_happens_an_isolation_has_most_of_its_fleet_missing(looks: list[tuple[float, frozenset[str]]]) -> None:
    outlook, at = Outlook(), NOW
    for pause, there in looks:
        before, at = outlook, at + timedelta(seconds=pause)
        outlook = looked(before, there, FLEET, at=at)
        _holds(before, outlook, there, at)


def _holds(before: Outlook, outlook: Outlook, there: frozenset[str], at: datetime) -> None:
    assert not outlook.missing & there
    assert not outlook.left.keys() & there
    assert all(at - when <= timedelta(seconds=60) for when in outlook.left.values())
    if outlook.population is not None:
        assert len(outlook.missing) >= 3
        assert 2 * len(outlook.missing) > outlook.population
    if not before.isolated and outlook.isolated:
        assert outlook.missing == outlook.left.keys()
    assert looked(outlook, there, FLEET, at=at) == outlook
