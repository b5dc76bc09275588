"""Versions and what is too old; the clock that was moved."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.clockwatch import ClockWatch
from aiwm.daemon.floors import is_old, merged, numbers, old_software

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("24.0.7", (24, 0, 7)),
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("1.17.0-rc.1", (1, 17, 0)),
        ("v1.16.2", (1, 16, 2)),
        ("0.6.3.post1", (0, 6, 3)),
        ("2.70.0", (2, 70, 0)),
        ("24", (24,)),
        ("unknown", None),
        ("", None),
        ("-1", None),
    ],
)
def test_versions_are_read_by_their_leading_numbers(text: str, read: tuple[int, ...] | None) -> None:
    assert numbers(text) == read


@given(st.text())
def test_nonsense_is_never_old_by_accident_of_reading(text: str) -> None:
    assert not is_old("docker", text) or numbers(text) is not None


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("docker", "23.0.6", "24.0.0"),
        ("docker", "20.10.24+dfsg1", "28.2.2"),
        ("toolkit", "1.16.2", "1.17.0-rc.1"),
        ("triton", "2.39.9", "2.40.0"),
        ("vllm", "0.5.5", "0.6.3.post1"),
    ],
)
def test_each_floor_parts_old_from_new(what: str, old: str, new: str) -> None:
    assert is_old(what, old)
    assert not is_old(what, new)


def test_what_is_unknown_or_not_there_is_not_old() -> None:
    assert old_software([("docker", None), ("podman", "4.3.1"), ("triton", "nightly"), ("none", None)]) == []


def test_two_old_engines_are_one_condition_that_names_both() -> None:
    (condition,) = merged(old_software([("triton", "2.30.0"), ("vllm", "0.5.0")]))
    assert (condition.type, condition.status) == ("EngineOld", True)
    assert condition.message == (
        "Triton 2.30.0 is older than 2.40 and may still work; install Triton 2.40 or newer. "
        "vLLM 0.5.0 is older than 0.6 and may still work; install vLLM 0.6 or newer"
    )


def test_a_clock_that_goes_on_is_not_spoken_of() -> None:
    watch = ClockWatch()
    for beat in range(20):
        watch.look(START + timedelta(seconds=30 * beat + 4 * (beat % 2)), 30.0 * beat)
        assert watch.conditions(30.0 * beat) == []


@pytest.mark.parametrize("jump", [-3600, -6, 6, 86_400])
def test_a_clock_that_was_moved_is_a_condition_for_ten_minutes(jump: int) -> None:
    watch = ClockWatch()
    watch.look(START, 0)
    watch.look(START + timedelta(seconds=30 + jump), 30)
    (condition,) = watch.conditions(30)
    assert (condition.type, condition.status) == ("ClockJumped", True)
    assert f"{jump:+d} s" in condition.message
    watch.look(START + timedelta(seconds=60 + jump), 60)
    assert watch.conditions(600) == [condition]
    assert watch.conditions(631) == []
