"""What the bus port promises, held against every backend."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests import servers

from aiwm.infra.bus import inbox, port
from aiwm.infra.bus.memory import Exchange, MemoryBus
from aiwm.infra.bus.open import open_bus
from aiwm.infra.bus.port import Bus, Message
from aiwm.infra.bus.redis import RedisBus
from aiwm.kit.settings import SettingsError
from aiwm.protocol.errors import TooLarge
from aiwm.testing.world import eventually

_spaces = (f"space{number}" for number in itertools.count())
Open = Callable[[], Bus]


@pytest.fixture(scope="module", params=["memory", "redis"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "memory":
        yield "memory://"
        return
    with servers.redis(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture
async def open_one(url: str) -> AsyncIterator[Open]:
    """Opens buses that reach each other, closed at the end."""
    opened: list[Bus] = []
    exchange, space = Exchange(), f"{next(_spaces)}-{id(opened)}"

    def one() -> Bus:
        opened.append(MemoryBus(exchange) if url == "memory://" else RedisBus(url, space))
        return opened[-1]

    yield one
    for each in opened:
        await each.close()


@dataclass
class Ear:
    """What one listener was given."""

    heard: list[tuple[str, object]] = field(default_factory=list)
    joins: int = 0
    held_up: asyncio.Event | None = None

    async def hear(self, topic: str, message: Message) -> None:
        self.heard.append((topic, message.get("n", message)))
        if self.held_up is not None:
            await self.held_up.wait()

    async def joined(self) -> None:
        self.joins += 1


@asynccontextmanager
async def listening(bus: Bus, topics: Sequence[str], ear: Ear) -> AsyncIterator[None]:
    """Listens, having joined, until the end; an error of the listener is the test's."""
    before = ear.joins
    task = asyncio.create_task(bus.listen(topics, ear.hear, ear.joined))
    try:
        await eventually(lambda: ear.joins > before or task.done())
        yield
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended


async def test_everyone_who_listens_hears_every_message_in_order_and_the_publisher_knows_how_many(
    open_one: Open,
) -> None:
    bus, other, one, two = open_one(), open_one(), Ear(), Ear()
    assert await bus.publish("a", {"n": 0}) == 0
    async with listening(bus, ("a", "b"), one), listening(other, ("a",), two):
        for n in range(1, 200):
            assert await bus.publish("ab"[n % 2], {"n": n}) == (2 if n % 2 == 0 else 1)
        await eventually(lambda: len(one.heard) == 199)
        await eventually(lambda: len(two.heard) == 99)
    assert one.heard == [("ab"[n % 2], n) for n in range(1, 200)]
    assert two.heard == [("a", n) for n in range(2, 200, 2)]
    assert (one.joins, two.joins) == (1, 1)

    async def nobody_listens() -> bool:
        # A server counts who has just left for a moment more.
        return await bus.publish("a", {"n": 0}) == 0

    await eventually(nobody_listens)


async def test_a_message_arrives_as_it_was_sent(open_one: Open) -> None:
    bus, ear = open_one(), Ear()
    message: Message = {"text": "grüße \u2028 \U0001f600 \x00", "deep": {"list": [1, 2.5, None, True, ""]}}
    async with listening(bus, ("a",), ear):
        await bus.publish("a", message)
        await eventually(lambda: bool(ear.heard))
    assert ear.heard == [("a", message)]


async def test_a_message_that_is_too_large_is_refused_and_one_just_below_arrives(open_one: Open) -> None:
    bus, ear = open_one(), Ear()
    async with listening(bus, ("a",), ear):
        with pytest.raises(TooLarge):
            await bus.publish("a", {"n": "x" * port.MAX_MESSAGE_BYTES})
        await bus.publish("a", {"n": "x" * (port.MAX_MESSAGE_BYTES - 100)})
        await eventually(lambda: bool(ear.heard))


async def test_a_slow_listener_stays_connected_and_is_told_that_it_missed_what_was_too_much(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_WAITING_BYTES", 100_000)
    bus, ear = open_one(), Ear(held_up=asyncio.Event())
    assert ear.held_up is not None
    async with listening(bus, ("a",), ear):
        await bus.publish("a", {"n": 0})
        await eventually(lambda: bool(ear.heard))
        for n in range(1, 100):
            await bus.publish("a", {"n": n, "load": "x" * 5_000})
        ear.held_up.set()
        await eventually(lambda: ear.joins == 2)
        await bus.publish("a", {"n": "last"})
        await eventually(lambda: ear.heard[-1:] == [("a", "last")])
    assert ear.heard[0] == ("a", 0)
    assert len(ear.heard) < 40
    assert ear.joins == 2


async def test_an_error_of_the_handler_is_the_listeners(open_one: Open) -> None:
    async def fails(topic: str, message: Message) -> None:
        raise KeyError(topic)

    bus, ear = open_one(), Ear()
    task = asyncio.create_task(bus.listen(("a",), fails, ear.joined))
    await eventually(lambda: ear.joins == 1)
    await bus.publish("a", {})
    async with asyncio.timeout(5):
        with pytest.raises(KeyError):
            await task


async def test_a_lease_is_one_owners_until_it_ends_or_is_given_back(open_one: Open) -> None:
    one, two = open_one(), open_one()
    assert await one.hold("lead", "a", 0.4) == 1
    assert await two.hold("lead", "b", 30) is None
    assert await one.hold("lead", "a", 30) == 1
    assert await one.hold("other", "b", 30) == 1
    await two.release("lead", "b")
    assert await two.hold("lead", "b", 30) is None
    await one.release("lead", "a")
    assert await two.hold("lead", "b", 0.3) == 2

    async def free() -> bool:
        return await one.hold("lead", "a", 30) == 3

    await eventually(free)


async def test_of_many_who_want_a_lease_at_once_one_gets_it(open_one: Open) -> None:
    buses = [open_one() for _ in range(8)]
    got = await asyncio.gather(*(bus.hold("lead", f"owner-{n}", 30) for n, bus in enumerate(buses)))
    assert sorted(got, key=str) == [1, *[None] * 7]


async def test_installations_on_one_redis_do_not_hear_each_other(tmp_path_factory: pytest.TempPathFactory) -> None:
    with servers.redis(tmp_path_factory.mktemp("redis")) as url:
        one, two, ear = open_bus(url, "one"), open_bus(url, "two"), Ear()
        async with listening(one, ("a",), ear):
            assert await two.publish("a", {"n": 1}) == 0
            assert await one.hold("lead", "a", 30) == 1
            assert await two.hold("lead", "b", 30) == 1
            assert await one.publish("a", {"n": 2}) == 1
            await eventually(lambda: ear.heard == [("a", 2)])
        for bus in (one, two):
            await bus.close()


@pytest.mark.parametrize("url_", ["", "http://x", "redis://host:port"])
def test_an_address_that_is_none_is_refused(url_: str) -> None:
    with pytest.raises(SettingsError, match="AIWM_REDIS_URL"):
        open_bus(url_, "x")
