"""The bus in one process's memory: the fast twin, shared by those who are built on one `Exchange`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from aiwm.infra.bus.inbox import Inbox
from aiwm.infra.bus.port import Hear, Message, packed
from aiwm.kit.clock import Clock, SystemClock
from aiwm.protocol.errors import Unavailable


@dataclass(slots=True)
class _Lease:
    owner: str
    until: float
    term: int


@dataclass(slots=True)
class Exchange:
    """What the buses on it share. While it is `away`, it cannot be reached, and listeners hear nothing."""

    clock: Clock = field(default_factory=SystemClock)
    listeners: dict[str, list[Inbox]] = field(default_factory=dict)
    leases: dict[str, _Lease] = field(default_factory=dict)
    away: bool = False

    def leave(self) -> None:
        """Nobody reaches it any more."""
        self.away = True

    def come_back(self) -> None:
        """It can be reached again; who listened learns that messages were missed."""
        self.away = False
        for inbox in {id(each): each for found in self.listeners.values() for each in found}.values():
            inbox.missed()


class MemoryBus:
    """`Bus` on an `Exchange`; on one of its own when none is given."""

    def __init__(self, exchange: Exchange | None = None) -> None:
        self._exchange = exchange or Exchange()
        self._closed = False

    async def publish(self, topic: str, message: Message) -> int:
        text = packed(topic, message)
        self._check()
        inboxes = self._exchange.listeners.get(topic, [])
        for inbox in inboxes:
            inbox.put(topic, text)
        await asyncio.sleep(0)
        return len(inboxes)

    async def listen(self, topics: Sequence[str], hear: Hear, joined: Callable[[], Awaitable[None]]) -> None:
        inbox = Inbox()
        for topic in topics:
            self._exchange.listeners.setdefault(topic, []).append(inbox)
        if not self._exchange.away:
            inbox.missed()
        try:
            await inbox.handle(hear, joined)
        finally:
            for topic in topics:
                self._exchange.listeners[topic].remove(inbox)

    async def hold(self, name: str, owner: str, seconds: float) -> int | None:
        self._check()
        now, known = self._exchange.clock.monotonic(), self._exchange.leases.get(name)
        held = known is not None and known.until > now
        if known is not None and held and known.owner != owner:
            return None
        term = (known.term if known else 0) + (0 if held else 1)
        self._exchange.leases[name] = _Lease(owner, now + seconds, term)
        return term

    async def release(self, name: str, owner: str) -> None:
        self._check()
        known = self._exchange.leases.get(name)
        if known is not None and known.owner == owner:
            known.until = 0.0

    async def close(self) -> None:
        self._closed = True

    def _check(self) -> None:
        if self._closed or self._exchange.away:
            raise Unavailable("cannot reach the other processes: the bus is away", code="BUS_UNAVAILABLE")
