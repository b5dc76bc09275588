"""From rings and stored hours to evenly spaced points: pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from aiwm.nodes.rings import SLOT_SECONDS, SLOTS, Key

_MINUTE = 60


@dataclass(frozen=True, slots=True)
class Grid:
    """`count` buckets of `step` seconds from `start` on (seconds since 1970, a multiple of `step`)."""

    start: int
    step: int
    count: int

    @property
    def end(self) -> int:
        """The first second that is not in it."""
        return self.start + self.step * self.count

    def buckets(self, begin: int, seconds: int) -> range:
        """The buckets that a span touches."""
        first = max(0, (begin - self.start) // self.step)
        return range(first, min(self.count, (begin + seconds - 1 - self.start) // self.step + 1))


def grid(begin: float, end: float, step: int) -> Grid:
    """The buckets that cover a span of time."""
    start = math.floor(begin / step) * step
    return Grid(start, step, max(1, math.ceil((end - start) / step)))


@dataclass(slots=True)
class Means:
    """The means of one series in the buckets of a grid; what is not known is None."""

    grid: Grid
    _sums: list[float] = field(init=False)
    _counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._sums, self._counts = [0.0] * self.grid.count, [0] * self.grid.count

    def add(self, begin: int, seconds: int, value: float) -> None:
        """Counts a value that stood for `seconds` from `begin` on."""
        for bucket in self.grid.buckets(begin, seconds):
            self._sums[bucket] += value
            self._counts[bucket] += 1

    def values(self) -> list[float | None]:
        """One a bucket."""
        pairs = zip(self._sums, self._counts, strict=True)
        return [tidy(total / count) if count else None for total, count in pairs]


def of_slots(to: Grid, slots: Sequence[float], last: int) -> list[float | None]:
    """A ring's slots, the newest of which is `last`, in the buckets of a grid."""
    means = Means(to)
    first = max(last - SLOTS + 1, to.start // SLOT_SECONDS)
    for slot in range(first, min(last, (to.end - 1) // SLOT_SECONDS) + 1):
        value = slots[slot % SLOTS]
        if not math.isnan(value):
            means.add(slot * SLOT_SECONDS, SLOT_SECONDS, value)
    return means.values()


def of_hours(to: Grid, hours: Iterable[tuple[int, Sequence[float | None]]]) -> list[float | None]:
    """The minutes of hours (which begin at seconds since 1970) in the buckets of a grid; a finer one repeats them."""
    means = Means(to)
    for begin, minutes in hours:
        for minute, value in enumerate(minutes):
            if value is not None:
                means.add(begin + minute * _MINUTE, _MINUTE, value)
    return means.values()


def joined(finer: Sequence[float | None], coarser: Sequence[float | None]) -> list[float | None]:
    """The finer values, and the coarser where there is none."""
    return [coarse if fine is None else fine for fine, coarse in zip(finer, coarser, strict=True)]


def tidy(value: float) -> float:
    """As much of a number as was measured."""
    return round(value, 1)


def order(key: Key) -> tuple[bool, str, str]:
    """How series are listed: those of the node first, then GPU by GPU."""
    metric, device = key
    return device is not None, (device or "").rjust(64), metric
