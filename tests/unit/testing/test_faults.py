"""Faults strike as often as they were asked to, and the same ones again for the same seed."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.testing.faults import Faults, Lots, skew_of


@given(st.integers(0, 500), st.floats(0, 300), st.integers(1, 300), st.integers())
def test_a_minute_has_its_share_and_never_more(nodes: int, share: float, seconds: int, seed: int) -> None:
    names = [str(number) for number in range(nodes)]
    lots = Lots(share, random.Random(seed))
    struck = sum(len(lots.draw(names, 1.0)) for _ in range(seconds))
    wanted = nodes * share / 100 * seconds / 60
    assert wanted - 1.001 <= struck <= wanted + 0.001


def test_nobody_is_struck_twice_at_once() -> None:
    drawn = Lots(1000, random.Random(1)).draw(["a", "b", "c"], 60)
    assert sorted(drawn) == ["a", "b", "c"]


def test_the_same_seed_strikes_the_same_nodes() -> None:
    names = [str(number) for number in range(100)]
    first, again, other = (
        [lots.draw(names, 1.0) for _ in range(60)]
        for lots in (Lots(50, random.Random(7)), Lots(50, random.Random(7)), Lots(50, random.Random(8)))
    )
    assert first == again != other


@pytest.mark.parametrize(("nodes", "skewed"), [(1, 1), (10, 1), (100, 10)])
def test_a_tenth_of_the_clocks_is_wrong_one_at_least(nodes: int, skewed: int) -> None:
    off = [skew_of(number, nodes, Faults(skew=90), random.Random(number)) for number in range(nodes)]
    assert sum(each != 0 for each in off) == skewed
    assert {abs(each) for each in off} <= {0.0, 90.0}


def test_without_skew_every_clock_is_right() -> None:
    assert skew_of(0, 10, Faults(), random.Random(1)) == 0.0
