"""What nodes measured over time: an hour at ten seconds in memory, a week at one minute in the store.

Each node's current hour is one record, replaced once a minute, every node at a second of its own: however many there
are, the store never gets them all at once. It is written with the current minute as it is so far, so that a controller
that dies loses less than a minute, and one that starts again goes on in the same record.
"""

import asyncio
import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aiwm.infra.store.port import Index, Query, Record, Store, Where
from aiwm.kit.clock import Clock
from aiwm.nodes import resampling
from aiwm.nodes.history_records import HISTORY, StoredHour, begin_of, document, record_id
from aiwm.nodes.records import NodeObservation
from aiwm.nodes.resampling import Grid
from aiwm.nodes.rings import CARRIED, SLOT_SECONDS, SLOTS, Hour, Key, Ring, slot_of
from aiwm.protocol.errors import AiwmError, Conflict
from aiwm.protocol.resources.node_metrics import KEPT_SECONDS, UNITS, Metric, MetricSeries, NodeMetrics

log = logging.getLogger(__name__)

KEPT = timedelta(seconds=KEPT_SECONDS, hours=1)
"""How long an hour is kept: none that a query may ask for is missing its end."""

_PHASES = 60
_SWEEP_SECONDS = 3600
_MOST_DEVICES = 64
_HOUR_SECONDS = 3600


@dataclass(slots=True)
class _Kept:
    """A node's ring, and which version of which hour's record is known here; None: not looked at yet."""

    ring: Ring
    changed: bool = True
    hour: int = 0
    version: int | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class History:
    """Of the nodes that report to this controller."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._kept: dict[str, _Kept] = {}
        self._phases: list[set[str]] = [set() for _ in range(_PHASES)]

    async def prepare(self) -> None:
        """Makes the indexes."""
        await self._store.ensure_index(Index(HISTORY, ("hour",)))
        await self._store.ensure_index(Index(HISTORY, ("nodeId",)))

    def note(self, seen: NodeObservation) -> None:
        """Takes what is known of a node now: after metrics, and after a heartbeat, as it says that nothing changed."""
        slot = slot_of(self._clock.now())
        kept = self._kept.get(seen.id)
        if kept is None:
            kept = self._kept[seen.id] = _Kept(Ring(slot))
            self._phases[_phase(seen.id)].add(seen.id)
        kept.ring.note(measurements(seen), slot)
        kept.changed = True

    async def run(self) -> None:
        """Writes for ever, and removes each hour what is older than a week; an outage of the store is waited out."""
        last, swept = self._second(), -math.inf
        while True:
            await self._clock.sleep(1.0)
            now = self._second()
            try:
                # A clock that went back, or far ahead, makes no node wait for more than a minute.
                for second in range(max(last + 1, now - _PHASES + 1), now + 1):
                    for node_id in list(self._phases[second % _PHASES]):
                        await self.write(node_id)
                if self._clock.monotonic() - swept >= _SWEEP_SECONDS:
                    await self.sweep()
                    swept = self._clock.monotonic()
            except AiwmError as error:
                if not error.retryable:
                    raise
                log.warning("history waits: %s", error.message)
            last = now

    async def write(self, node_id: str) -> None:
        """Writes what a node measured since the last time."""
        kept = self._kept.get(node_id)
        if kept is None or not kept.changed:
            return
        async with kept.lock:
            if (closed := kept.ring.closed) is not None:
                await self._save(node_id, kept, closed)
                kept.ring.closed = None
            kept.changed = False
            try:
                await self._save(node_id, kept, kept.ring.this_hour())
            except BaseException:
                kept.changed = True
                raise

    async def sweep(self) -> None:
        """Removes what is older than a week, and the rings of nodes that have said nothing for an hour."""
        now = self._clock.now()
        await self._store.delete_range(HISTORY, (Where("hour", "lt", now - KEPT),))
        silent = slot_of(now) - SLOTS
        for node_id in [node_id for node_id, kept in self._kept.items() if kept.ring.last < silent]:
            self._drop(node_id)

    async def forget(self, node_id: str) -> None:
        """Removes all there is of a node that was deleted."""
        kept = self._kept.get(node_id)
        self._drop(node_id)
        async with kept.lock if kept is not None else asyncio.Lock():
            await self._store.delete_range(HISTORY, (Where("nodeId", "eq", node_id),))

    async def read(self, node_id: str, begin: datetime, end: datetime, step: int) -> NodeMetrics:
        """The node's measurements from `begin` to `end`, as means of `step` seconds."""
        to = resampling.grid(begin.timestamp(), end.timestamp(), step)
        kept = self._kept.get(node_id)
        found = (
            []
            if kept is not None and _covers(kept.ring, to, slot_of(self._clock.now()))
            else await self._stored(node_id, to)
        )
        memory = None if kept is None else _Memory(kept.ring)
        # Of a week and several GPUs, these are too many numbers for the event loop.
        values = await asyncio.to_thread(_points, to, memory, found)
        return NodeMetrics(
            node_id=node_id,
            from_=begin,
            to=end,
            step=step,
            times=[_moment(to.start + bucket * step) for bucket in range(to.count)],
            series=[_series(key, values[key]) for key in sorted(values, key=resampling.order)],
        )

    async def _stored(self, node_id: str, to: Grid) -> list[Record]:
        first, last = to.start // _HOUR_SECONDS, (to.end - 1) // _HOUR_SECONDS
        ids = tuple(record_id(node_id, hour) for hour in range(first, last + 1))
        return await self._store.find(HISTORY, Query((Where("id", "in", ids),)))

    async def _save(self, node_id: str, kept: _Kept, hour: Hour) -> None:
        if not hour.minutes:
            return
        if kept.hour != hour.number:
            kept.hour, kept.version = hour.number, None
        record = document(node_id, hour)
        if kept.version is not None and await self._store.replace(HISTORY, record, version=kept.version):
            kept.version += 1
            return
        kept.version = await self._join(node_id, kept, hour)

    async def _join(self, node_id: str, kept: _Kept, hour: Hour) -> int | None:
        """Goes on in a record that this controller did not write last: it may have been started again in between."""
        stored = await self._store.get(HISTORY, record_id(node_id, hour.number))
        if stored is None:
            try:
                await self._store.insert(HISTORY, document(node_id, hour))
            except Conflict:
                return None
            return 1
        known = StoredHour.model_validate(stored)
        if kept.ring.hour == hour.number:
            kept.ring.adopt(known.known())
            hour = kept.ring.this_hour()
        else:
            hour.adopt(known.known())
        written = await self._store.replace(HISTORY, document(node_id, hour), version=known.version)
        return known.version + 1 if written else None

    def _drop(self, node_id: str) -> None:
        self._kept.pop(node_id, None)
        self._phases[_phase(node_id)].discard(node_id)

    def _second(self) -> int:
        return int(self._clock.now().timestamp())


class _Memory:
    """What a ring knows, copied for another thread."""

    def __init__(self, ring: Ring) -> None:
        hour = ring.this_hour()
        self.slots, self.last, self.begin = ring.copied(), ring.last, hour.number * _HOUR_SECONDS
        self.minutes = {key: minutes.tolist() for key, minutes in hour.minutes.items()}


def measurements(seen: NodeObservation) -> dict[Key, float]:
    """What is kept of an observation over time."""
    named: dict[Key, float | None] = {
        ("cpuUtilization", None): seen.cpu_utilization,
        ("ramFree", None): seen.ram_free,
        ("diskFree", None): seen.disk_free,
    }
    for gpu in seen.gpu_devices[:_MOST_DEVICES]:
        named["utilization", gpu.device_id] = gpu.utilization
        named["memoryUsed", gpu.device_id] = gpu.memory_used
        named["temperature", gpu.device_id] = gpu.temperature
    return {key: value for key, value in named.items() if value is not None}


def _points(to: Grid, memory: _Memory | None, found: Sequence[Record]) -> dict[Key, list[float | None]]:
    """The values of each series; what is in memory counts before what is stored."""
    hours = {int(hour.hour.timestamp()): hour for hour in map(StoredHour.model_validate, found)}
    minutes = {begin: {each.key: each.values for each in hour.series} for begin, hour in hours.items()}
    slots: dict[Key, Sequence[float]] = {}
    if memory is not None:
        slots = memory.slots
        stored = minutes.setdefault(memory.begin, {})
        for key, here in memory.minutes.items():
            known = [None if math.isnan(value) else value for value in here]
            stored[key] = resampling.joined(known, stored.get(key, [None] * len(known)))
    points: dict[Key, list[float | None]] = {}
    for key in slots.keys() | {key for each in minutes.values() for key in each}:
        coarse = resampling.of_hours(to, [(begin, each[key]) for begin, each in minutes.items() if key in each])
        fine = resampling.of_slots(to, slots[key], memory.last) if memory is not None and key in slots else coarse
        points[key] = resampling.joined(fine, coarse)
    return {key: values for key, values in points.items() if any(value is not None for value in values)}


def _covers(ring: Ring, to: Grid, now: int) -> bool:
    """Whether the ring knows all there can be known of the grid's time; another controller may know more since."""
    newest = min(now, (to.end - 1) // SLOT_SECONDS)
    return (
        ring.last >= newest - CARRIED
        and ring.began * SLOT_SECONDS <= to.start
        and to.start >= (ring.last - SLOTS + 1) * SLOT_SECONDS
    )


def _series(key: Key, values: list[float | None]) -> MetricSeries:
    metric: Metric = key[0]  # type: ignore[assignment]
    return MetricSeries(metric=metric, device_id=key[1], unit=UNITS[metric], values=values)


def _moment(seconds: int) -> datetime:
    return begin_of(0) + timedelta(seconds=seconds)


def _phase(node_id: str) -> int:
    return zlib.crc32(node_id.encode()) % _PHASES
