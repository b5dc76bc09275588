"""What was used: counted in memory, written each second, each flush at most once.

A flush carries an id of its own; a flush that is written again, as its answer was lost, finds its id and adds nothing.
A crash loses at most what was counted since the last flush.
"""

import asyncio
import contextlib
import logging

from aiwm.deployments.records import USAGE, Usage
from aiwm.infra.store.port import Store
from aiwm.infra.store.records import Records
from aiwm.kit.clock import Clock
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import AiwmError, Conflict

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0


class UsageMeter:
    """Counts inferences by deployment."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._records, self._clock = Records(store, USAGE, Usage), clock
        self._counted: dict[str, tuple[int, float]] = {}
        self._flushing: dict[str, tuple[str, int, float]] = {}
        self._lock = asyncio.Lock()

    def count(self, deployment_id: str, latency_ms: float) -> None:
        """One inference that succeeded, from request to the answer's last byte."""
        number, total = self._counted.get(deployment_id, (0, 0.0))
        self._counted[deployment_id] = (number + 1, total + latency_ms)

    async def run(self) -> None:
        """Flushes each second until cancelled."""
        while True:
            await self._clock.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except AiwmError as error:
                log.warning("usage waits: %s", error.message)

    async def flush(self) -> None:
        """Writes what has been counted; what could not be written keeps its flush id for the next try.

        One flush at a time: a record remembers the last flush alone.
        """
        async with self._lock:
            for deployment_id in [each for each in self._counted if each not in self._flushing]:
                self._flushing[deployment_id] = (new_id("flush"), *self._counted.pop(deployment_id))
            for deployment_id, flush in list(self._flushing.items()):
                await self._write(deployment_id, *flush)
                del self._flushing[deployment_id]

    async def _write(self, deployment_id: str, flush_id: str, number: int, total: float) -> None:
        def added(usage: Usage) -> Usage:
            if usage.flush_id == flush_id:
                return usage
            return usage.model_copy(
                update={
                    "flush_id": flush_id,
                    "total_inferences": usage.total_inferences + number,
                    "latency_sum_ms": usage.latency_sum_ms + total,
                }
            )

        if await self._records.get(deployment_id) is None:
            with contextlib.suppress(Conflict):
                await self._records.insert(Usage(id=deployment_id))
        await self._records.update(deployment_id, added)
