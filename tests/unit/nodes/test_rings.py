"""What a node's ring remembers of its last hour, and of this hour's minutes."""

import math
import tracemalloc
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.nodes.node_builders import gpu, online

from aiwm.nodes.history import measurements
from aiwm.nodes.rings import CARRIED, MINUTES, SLOTS, SLOTS_A_MINUTE, Key, Ring

CPU: Key = ("cpuUtilization", None)
START = 1_000 * SLOTS
"""A slot with which an hour begins."""


def known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def a_ring(*notes: tuple[int, float], start: int = START) -> Ring:
    ring = Ring(start)
    for slot, value in notes:
        ring.note({CPU: value}, start + slot)
    return ring


def recent(ring: Ring, count: int) -> list[float | None]:
    """The newest slots of the first series, oldest first."""
    slots = ring.copied()[CPU]
    values = [slots[slot % SLOTS] for slot in range(ring.last - count + 1, ring.last + 1)]
    return [None if math.isnan(value) else value for value in values]


def test_a_gap_of_up_to_a_minute_is_filled_with_what_was_known_and_a_longer_one_is_not() -> None:
    assert recent(a_ring((0, 1), (6, 2)), 7) == [1, 1, 1, 1, 1, 1, 2]
    assert recent(a_ring((0, 1), (7, 2)), 8) == [1, None, None, None, None, None, None, 2]


def test_what_is_older_than_an_hour_is_forgotten_however_long_the_gap() -> None:
    for gap in (SLOTS - 1, SLOTS, SLOTS + 1, 1_000_000):
        ring = a_ring((0, 1), (gap, 2))
        assert known(ring.copied()[CPU]) == ([1, 2] if gap < SLOTS else [2])


def test_the_newest_value_of_a_slot_counts() -> None:
    assert recent(a_ring((0, 1), (0, 5)), 1) == [5]


def test_a_device_that_is_no_longer_named_has_no_value_and_is_dropped_in_time() -> None:
    ring = Ring(START)
    ring.note({CPU: 1, ("utilization", "0"): 7}, START)
    for slot in range(1, SLOTS + 1):
        ring.note({CPU: 1}, START + slot)
    assert recent(ring, 2) == [1, 1]
    assert ("utilization", "0") in ring.series
    for slot in range(SLOTS + 1, 2 * SLOTS + 1):
        ring.note({CPU: 1}, START + slot)
    assert set(ring.series) == {CPU}


def test_a_minute_is_the_mean_of_what_is_known_of_it_so_far() -> None:
    ring = a_ring((0, 10), (1, 20))
    assert known(ring.this_hour().minutes[CPU]) == [15]
    ring.note({CPU: 30}, START + 2)
    ring.note({CPU: 90}, START + 30)
    minutes = ring.this_hour().minutes[CPU]
    assert minutes[0] == 20
    assert math.isnan(minutes[1])
    assert minutes[5] == 90


def test_an_hour_is_handed_over_whole_when_the_next_begins() -> None:
    ring = a_ring(*[(slot, slot // SLOTS_A_MINUTE) for slot in range(SLOTS + 1)])
    assert ring.closed is not None
    assert ring.closed.number == START // SLOTS
    assert list(ring.closed.minutes[CPU]) == list(range(MINUTES))
    assert ring.this_hour().number == START // SLOTS + 1
    assert known(ring.this_hour().minutes[CPU]) == [60]


def test_the_end_of_an_hour_is_filled_across_its_border() -> None:
    ring = a_ring((SLOTS - 3, 4), (SLOTS + 1, 8))
    assert ring.closed is not None
    assert ring.closed.minutes[CPU][59] == 4
    assert ring.this_hour().minutes[CPU][0] == 6


def test_means_from_before_a_restart_fill_only_what_is_not_known_here() -> None:
    ring = a_ring((SLOTS_A_MINUTE, 5))
    ring.adopt({CPU: {0: 1.0, 1: 2.0}, ("ramFree", None): {0: 3.0}})
    hour = ring.this_hour().minutes
    assert list(hour[CPU][:2]) == [1, 5]
    assert hour["ramFree", None][0] == 3


def test_a_clock_that_goes_back_by_seconds_changes_nothing() -> None:
    ring = a_ring((10, 1), (11, 2))
    ring.note({CPU: 9}, START + 11 - CARRIED)
    assert recent(ring, 2) == [1, 2]


def test_a_clock_that_goes_back_further_goes_on_there_and_the_future_is_forgotten() -> None:
    for back in (CARRIED + 1, 30, SLOTS + 5, 10 * SLOTS):
        ring = a_ring((100, 1), (101, 2))
        ring.note({CPU: 9}, START + 101 - back)
        ring.note({CPU: 8}, START + 102 - back)
        assert known(ring.copied()[CPU]) == [9, 8], back
        assert ring.last == START + 102 - back


def test_eight_gpus_take_less_than_64_kb() -> None:
    devices = [
        gpu(str(each), utilization=each, memory_used=each, temperature=each, memory_total=80_000) for each in range(8)
    ]
    seen = online(*devices, cpu_utilization=1, ram_free=2, disk_free=3)
    values = measurements(seen)
    assert len(values) == 27
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    ring = Ring(START)
    for slot in range(SLOTS):
        ring.note(measurements(seen), START + slot)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used < 64_000, used


_notes = st.lists(
    st.tuples(st.sampled_from([-400, -30, -7, -3, 0, 1, 2, 3, 6, 7, 50, 359, 360, 400]), st.integers(0, 100)),
    min_size=1,
    max_size=25,
)


@given(_notes, st.integers(0, SLOTS - 1))
@settings(max_examples=300)
def test_a_ring_knows_what_a_plain_table_of_all_that_happened_knows(notes: list[tuple[int, int]], offset: int) -> None:
    slot = START + offset
    ring, table, last = Ring(slot), {slot: 50.0}, slot
    ring.note({CPU: 50}, slot)
    for gap, value in notes:
        slot = last + gap
        ring.note({CPU: value}, slot)
        if last - CARRIED <= slot < last:
            continue
        table = {at: each for at, each in table.items() if at <= slot}
        if last < slot <= last + CARRIED and last in table:
            table |= dict.fromkeys(range(last + 1, slot), table[last])
        table[slot] = value
        table = {at: each for at, each in table.items() if at > slot - SLOTS}
        last = slot
    slots = ring.copied()[CPU]
    for at in range(last - SLOTS + 1, last + 1):
        here = slots[at % SLOTS]
        assert (None if math.isnan(here) else here) == table.get(at), at - last
    minute = last // SLOTS_A_MINUTE
    of_minute = [table[at] for at in range(minute * SLOTS_A_MINUTE, last + 1) if at in table]
    assert math.isclose(ring.this_hour().minutes[CPU][minute % MINUTES], sum(of_minute) / len(of_minute), abs_tol=1e-3)
