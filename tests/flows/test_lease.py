"""Who holds the lease: one at a time, whoever comes after a death, and a fallback while nobody can be asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aiwm.infra.bus.lease import LEASE_SECONDS, RENEW_SECONDS, Lease
from aiwm.infra.bus.memory import Exchange, MemoryBus
from aiwm.kit.clock import SystemClock


class Steps(SystemClock):
    """Monotonic time that moves only by `forward`; a sleep ends when its time has come."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sleeping: list[tuple[float, asyncio.Event]] = []

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        awake = asyncio.Event()
        self._sleeping.append((self.seconds + seconds, awake))
        await awake.wait()

    async def forward(self, seconds: float) -> None:
        """Time goes by, in steps of a tenth of a second."""
        for _ in range(round(seconds * 10)):
            self.seconds += 0.1
            due = [each for each in self._sleeping if each[0] <= self.seconds + 1e-9]
            self._sleeping = [each for each in self._sleeping if each not in due]
            for _, awake in due:
                awake.set()
            for _ in range(5):
                await asyncio.sleep(0)


Start = Callable[[str], Awaitable[tuple[Lease, "asyncio.Task[None]"]]]


@pytest.fixture
def clock() -> Steps:
    return Steps()


@pytest.fixture
def exchange(clock: Steps) -> Exchange:
    return Exchange(clock=clock)


@pytest.fixture
async def start(clock: Steps, exchange: Exchange) -> AsyncIterator[Start]:
    tasks: list[asyncio.Task[None]] = []

    async def one(owner: str) -> tuple[Lease, "asyncio.Task[None]"]:
        lease = Lease(MemoryBus(exchange), clock, "planner", owner)
        tasks.append(asyncio.create_task(lease.run()))
        await clock.forward(0.1)
        return lease, tasks[-1]

    yield one
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_first_holds_it_for_as_long_as_it_lives(clock: Steps, start: Start) -> None:
    (one, _), (two, _) = await start("one"), await start("two")
    for _ in range(10):
        await clock.forward(LEASE_SECONDS)
        assert (one.held, two.held) == (True, False)


async def test_after_a_death_another_holds_it_within_ten_seconds_and_is_told(
    clock: Steps, exchange: Exchange, start: Start
) -> None:
    await exchange_is_held_by_the_dead(exchange)
    two, _ = await start("two")
    told: list[None] = []
    two.on_taken(lambda: told.append(None))
    assert not two.held
    await clock.forward(LEASE_SECONDS + RENEW_SECONDS)
    assert two.held
    assert len(told) == 1


async def exchange_is_held_by_the_dead(exchange: Exchange) -> None:
    assert await MemoryBus(exchange).hold("planner", "dead", LEASE_SECONDS) == 1


async def test_one_that_ends_gives_it_back(clock: Steps, start: Start) -> None:
    (one, task), (two, _) = await start("one"), await start("two")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await clock.forward(RENEW_SECONDS)
    assert two.held
    assert one.held, "nobody asks one that has ended"


async def test_while_nobody_can_be_asked_the_last_holder_goes_on_and_the_others_wait(
    clock: Steps, exchange: Exchange, start: Start
) -> None:
    (one, _), (two, _) = await start("one"), await start("two")
    exchange.leave()
    await clock.forward(10 * LEASE_SECONDS)
    assert (one.held, two.held) == (True, False)
    exchange.come_back()
    await clock.forward(2 * LEASE_SECONDS)
    assert [one.held, two.held].count(True) == 1


async def test_one_that_never_could_ask_takes_it_that_it_is_alone(
    clock: Steps, exchange: Exchange, start: Start
) -> None:
    exchange.leave()
    one, _ = await start("one")
    assert one.held


async def test_one_that_stood_still_does_not_hold_what_may_be_anothers(
    clock: Steps, exchange: Exchange, start: Start
) -> None:
    one, _ = await start("one")
    clock.seconds += LEASE_SECONDS + 1
    assert not one.held
    told: list[None] = []
    one.on_taken(lambda: told.append(None))
    await clock.forward(0.1)
    assert one.held, "nobody else wanted it"
    assert len(told) == 1, "what was left undone meanwhile is looked at"
