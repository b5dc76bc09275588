"""One process among several holds a lease and does what only one should.

It is a way to avoid waste, not a lock: while the bus is away, whoever held it goes on, and somebody who could never ask
takes it that they are alone. What is done under it must do no harm when two do it.
"""

import logging
from collections.abc import Callable

from aiwm.infra.bus.port import Bus
from aiwm.kit.clock import Clock
from aiwm.protocol.errors import Unavailable

log = logging.getLogger(__name__)

LEASE_SECONDS = 5.0
RENEW_SECONDS = 1.5


class Lease:
    """Held or not, asked before each thing that is done under it."""

    def __init__(self, bus: Bus, clock: Clock, name: str, owner: str) -> None:
        self._bus, self._clock, self._name, self._owner = bus, clock, name, owner
        self._taken: Callable[[], None] | None = None
        self._held = self._asked = self._away = False
        self._until = 0.0

    @property
    def held(self) -> bool:
        """Whether this process does it now: a process that stood still for longer than the lease lasts does not."""
        return self._held and (self._away or self._clock.monotonic() < self._until)

    def on_taken(self, taken: Callable[[], None]) -> None:
        """Has `taken` called each time that the lease was not held before."""
        self._taken = taken

    async def run(self) -> None:
        """Takes the lease when it is free and keeps it until cancelled."""
        try:
            while True:
                await self._look()
                await self._clock.sleep(RENEW_SECONDS)
        finally:
            try:
                await self._bus.release(self._name, self._owner)
            except Unavailable:
                log.info("the lease %s ends by itself", self._name)

    async def _look(self) -> None:
        before, asked_at, term = self.held, self._clock.monotonic(), None
        try:
            term = await self._bus.hold(self._name, self._owner, LEASE_SECONDS)
        except Unavailable:
            self._held, self._away = self._held or not self._asked, True
        else:
            self._held, self._asked, self._away = term is not None, True, False
            self._until = asked_at + LEASE_SECONDS
        if self.held is not before:
            log.info("the lease was %s", "taken" if self.held else "lost", extra={"lease": self._name, "term": term})
            if self.held and self._taken is not None:
                self._taken()
