"""The last hour of a node's measurements at ten seconds, and this hour's means of minutes, in flat arrays: pure.

Time is counted in slots of ten seconds since 1970. A daemon says nothing while nothing changes, so a gap of up to a
minute is filled with what was known last; of a longer one nothing is known. Not a number stands for that.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

SLOT_SECONDS = 10
SLOTS = 360
SLOTS_A_MINUTE = 6
MINUTES = 60
CARRIED = 6
"""How many slots a value stands for when nothing newer is said."""

_UNKNOWN = math.nan

Key = tuple[str, str | None]
"""A metric, and the GPU it is of."""


def slot_of(moment: datetime) -> int:
    """The slot in which a moment lies."""
    return int(moment.timestamp()) // SLOT_SECONDS


class Series:
    """One metric of one device: `slots` by slot modulo an hour, `minutes` of the ring's current hour."""

    __slots__ = ("minutes", "slots")

    def __init__(self) -> None:
        self.slots = array("f", [_UNKNOWN]) * SLOTS
        self.minutes = array("f", [_UNKNOWN]) * MINUTES


@dataclass(frozen=True, slots=True)
class Hour:
    """The means of an hour's minutes; `number` counts hours since 1970."""

    number: int
    minutes: "dict[Key, array[float]]"

    def adopt(self, known: Mapping[Key, Mapping[int, float]]) -> None:
        """Takes means from elsewhere, by series and minute, where none is known here."""
        for key, minutes in known.items():
            own = self.minutes.setdefault(key, array("f", [_UNKNOWN]) * MINUTES)
            for minute, value in minutes.items():
                if math.isnan(own[minute]):
                    own[minute] = value


class Ring:
    """The series of one node; `began` is the first slot it was told of, `last` the newest."""

    __slots__ = ("_settled", "began", "closed", "hour", "last", "series")

    def __init__(self, slot: int) -> None:
        self.series: dict[Key, Series] = {}
        self.began = self.last = slot
        self.hour = slot // SLOTS
        self._settled = slot // SLOTS_A_MINUTE
        self.closed: Hour | None = None

    def note(self, values: Mapping[Key, float], slot: int) -> None:
        """Takes what is known at `slot`. A clock that went back by seconds changes nothing, by more goes on there."""
        if self.last - CARRIED <= slot < self.last:
            return
        if slot < self.last:
            self._forget_after(slot)
        if slot // SLOTS_A_MINUTE != self.last // SLOTS_A_MINUTE:
            self._settle(self.last)
        self._advance(slot)
        for key, value in values.items():
            if key not in self.series:
                self.series[key] = Series()
            self.series[key].slots[slot % SLOTS] = value
        for key in self.series.keys() - values.keys():
            self.series[key].slots[slot % SLOTS] = _UNKNOWN

    def this_hour(self) -> Hour:
        """The current hour's means, the current minute's so far among them."""
        self._settle(self.last)
        return Hour(self.hour, {key: series.minutes for key, series in self.series.items()})

    def adopt(self, known: Mapping[Key, Mapping[int, float]]) -> None:
        """Takes means of the current hour from elsewhere, where none is known here."""
        for key in known.keys() - self.series.keys():
            self.series[key] = Series()
        self.this_hour().adopt(known)

    def copied(self) -> dict[Key, Sequence[float]]:
        """A copy of each series' slots."""
        return {key: array("f", series.slots) for key, series in self.series.items()}

    def _advance(self, slot: int) -> None:
        gap = slot - self.last
        missed = range(max(self.last + 1, slot - SLOTS + 1), slot)
        for series in self.series.values():
            carried = series.slots[self.last % SLOTS] if gap <= CARRIED else _UNKNOWN
            for each in missed:
                series.slots[each % SLOTS] = carried
            if gap >= SLOTS:
                series.slots[slot % SLOTS] = _UNKNOWN
        if slot // SLOTS != self.hour:
            self._settle(min(slot - 1, (self.hour + 1) * SLOTS - 1))
            self._open(slot)
        self.last = slot

    def _open(self, slot: int) -> None:
        """Begins another hour; the one before is kept in `closed` until it is taken, and what died out goes."""
        self.closed = Hour(self.hour, {key: series.minutes for key, series in self.series.items()})
        alive = {key: series for key, series in self.series.items() if not all(map(math.isnan, series.slots))}
        self.series = alive
        for series in alive.values():
            series.minutes = array("f", [_UNKNOWN]) * MINUTES
        self.hour = slot // SLOTS
        self._settled = self.hour * MINUTES

    def _forget_after(self, slot: int) -> None:
        """The clock went back to `slot`: what was noted for later is of a time that has not come."""
        later = range(max(slot + 1, self.last - SLOTS + 1), self.last + 1)
        for series in self.series.values():
            for each in later:
                series.slots[each % SLOTS] = _UNKNOWN
        if slot // SLOTS != self.hour:
            self._settle(self.last)
            self._open(slot)
        self._settled = min(self._settled, slot // SLOTS_A_MINUTE)
        self.began = min(self.began, slot)
        self.last = slot

    def _settle(self, slot: int) -> None:
        """Brings the means up to the minute of `slot`."""
        minute_now = slot // SLOTS_A_MINUTE
        for minute in range(max(self._settled, minute_now - MINUTES + 1, self.hour * MINUTES), minute_now + 1):
            at = minute * SLOTS_A_MINUTE % SLOTS
            # Beyond the newest slot lies what was an hour ago.
            past = at + min(SLOTS_A_MINUTE, slot + 1 - minute * SLOTS_A_MINUTE)
            for series in self.series.values():
                known = [each for each in series.slots[at:past] if not math.isnan(each)]
                if known:
                    series.minutes[minute % MINUTES] = sum(known) / len(known)
        self._settled = minute_now
