"""Members keep each other's pictures complete, and answer each other's questions once, whatever the bus does."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.peer_support import FailingBus

from aiwm.infra.bus import circle as circles
from aiwm.infra.bus.calls import Calls
from aiwm.infra.bus.circle import Circle, Part
from aiwm.infra.bus.feed import Feed
from aiwm.infra.bus.memory import Exchange
from aiwm.infra.bus.port import Message
from aiwm.kit.clock import SystemClock
from aiwm.kit.tasks import Tasks
from aiwm.protocol.errors import TimedOut, Unavailable
from aiwm.testing.world import eventually


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circles, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(circles, "SILENT_SECONDS", 1.5)
    monkeypatch.setattr(circles, "_ASK_AGAIN_SECONDS", 0.05)


class Values(Part):
    """Named values: each member's own, and what is known of the others'."""

    def __init__(self) -> None:
        self.own: dict[str, int] = {}
        self.others: dict[str, dict[str, int]] = {}
        self._changed: set[str] = set()
        self.joins = 0

    def set(self, name: str, value: int | None) -> None:
        if value is None:
            self.own.pop(name, None)
        else:
            self.own[name] = value
        self._changed.add(name)

    def news(self) -> list[Message]:
        changed, self._changed = self._changed, set()
        return [{"name": name, "value": self.own.get(name)} for name in sorted(changed)]

    def whole(self) -> list[Message]:
        return [{"name": name, "value": value} for name, value in self.own.items()]

    def heard(self, member: str, message: Message) -> None:
        known, name, value = self.others.setdefault(member, {}), str(message["name"]), message["value"]
        if isinstance(value, int):
            known[name] = value
        else:
            known.pop(name, None)

    def pictured(self, member: str, messages: list[Message]) -> None:
        self.others[member] = {}
        for message in messages:
            self.heard(member, message)

    def parted(self, member: str) -> None:
        self.others.pop(member, None)

    def joined(self) -> None:
        self.joins += 1


@dataclass
class Member:
    bus: FailingBus
    circle: Circle
    values: Values
    calls: Calls
    feed: Feed
    served: list[Message] = field(default_factory=list)
    followed: list[frozenset[str] | None] = field(default_factory=list)

    async def serve(self, message: Message) -> Message:
        self.served.append(message)
        await asyncio.sleep(0.05)
        return {"twice": [message, message]}

    async def follow(self, ids: frozenset[str] | None) -> None:
        self.followed.append(ids)


@asynccontextmanager
async def members(
    count: int, chance: float = 0.0, exchange: Exchange | None = None, first: int = 0
) -> AsyncIterator[Sequence[Member]]:
    exchange, clock = exchange or Exchange(), SystemClock()
    async with AsyncExitStack() as stack:
        found: list[Member] = []
        for number in range(first, first + count):
            bus = FailingBus(exchange, chance=chance, seed=number)
            stack.push_async_callback(bus.close)
            tasks = await stack.enter_async_context(Tasks())
            circle = Circle(bus, clock, f"member-{number}")
            one = Member(bus, circle, Values(), Calls(circle, clock, tasks), Feed(circle, clock))
            circle.add("values", one.values)
            one.calls.serve("twice", one.serve)
            one.feed.on("thing", one.follow)
            tasks.spawn("circle", circle.run())
            tasks.spawn("feed", one.feed.run())
            found.append(one)
        yield found


def agree(found: Sequence[Member]) -> bool:
    return all(
        one.values.others.get(other.circle.own_id) == other.values.own
        for one in found
        for other in found
        if one is not other
    )


@pytest.mark.parametrize("seed", range(5))
async def test_every_picture_is_complete_again_soon_after_whatever_was_lost(seed: int) -> None:
    draw = random.Random(seed)
    exchange = Exchange()
    async with members(3, 0.5, exchange) as found:
        for _ in range(150):
            one = draw.choice(found)
            one.values.set(f"name-{draw.randint(0, 9)}", draw.choice([None, draw.randint(0, 99)]))
            one.circle.wake()
            if draw.random() < 0.02:
                exchange.leave()
            elif exchange.away and draw.random() < 0.2:
                exchange.come_back()
            await asyncio.sleep(draw.choice([0.0, 0.0, 0.01]))
        if exchange.away:
            exchange.come_back()
        await eventually(lambda: agree(found), within=20)


async def test_nothing_lost_means_nothing_asked_again() -> None:
    async with members(2) as (one, two):
        await eventually(lambda: agree((one, two)))
        asked: list[str] = []
        publish = one.bus.publish

        async def noting(topic: str, message: Message) -> int:
            asked.append(str(message["kind"]))
            return await publish(topic, message)

        one.bus.publish = noting  # type: ignore[method-assign]
        for number in range(50):
            one.values.set("n", number)
            one.circle.wake()
            await eventually(lambda: agree((one, two)))
        assert set(asked) <= {"news", "beat"}
        assert asked.count("news") == 50


async def test_a_silent_member_is_forgotten_and_one_that_leaves_is_at_once() -> None:
    async with members(3) as (one, two, three):
        await eventually(lambda: agree((one, two, three)))
        three.circle.leave()
        await eventually(lambda: one.circle.members == {"member-1"}, within=1.0)
        two.bus.cut()
        await eventually(lambda: not one.circle.members)
        assert one.values.others == {}
        assert not one.circle.cut_off


async def test_a_newcomer_learns_all_and_what_was_said_to_nobody_is_not_missed() -> None:
    exchange = Exchange()
    async with members(1, exchange=exchange) as (one,):
        for number in range(100):
            one.values.set(f"name-{number}", number)
            one.circle.wake()
            await asyncio.sleep(0)
        async with members(1, exchange=exchange, first=1) as (two,):
            await eventually(lambda: agree((one, two)))
            assert len(two.values.others["member-0"]) == 100
        await eventually(lambda: not one.circle.members, within=1.0)


async def test_what_no_member_says_is_left_out() -> None:
    async with members(2) as (one, two):
        await eventually(lambda: agree((one, two)))
        strange: list[Message] = [
            {},
            {"from": 3},
            {"from": "stranger"},
            {"from": "stranger", "kind": "news", "number": "x"},
            {"from": "stranger", "kind": "picture", "number": 1, "index": "a", "body": []},
            {"from": "stranger", "kind": "direct", "direct": "question", "body": {"id": [], "name": "twice"}},
            {"from": "member-1", "kind": "news", "number": 10**9, "part": "values", "body": None},
        ]
        for message in strange:
            await one.bus.publish("circle", message)
            await two.bus.publish("circle:member-0", message)
        two.values.set("after", 1)
        two.circle.wake()
        await eventually(lambda: one.values.others["member-1"] == {"after": 1})
        assert one.served == []


@pytest.mark.parametrize("chance", [0.0, 0.5])
async def test_every_question_is_answered_and_worked_on_once(chance: float) -> None:
    async with members(2, chance) as (one, two):
        await eventually(lambda: agree((one, two)))
        answers = await asyncio.gather(*(one.calls.ask("member-1", "twice", {"n": n}, timeout=30) for n in range(30)))
        assert answers == [{"twice": [{"n": n}, {"n": n}]} for n in range(30)]
        assert sorted(each["n"] for each in two.served) == list(range(30))  # type: ignore[type-var]


async def test_a_question_to_nobody_fails_at_once_and_one_that_is_not_answered_in_time() -> None:
    async with members(2) as (one, two):
        await eventually(lambda: agree((one, two)))
        with pytest.raises(Unavailable):
            await one.calls.ask("member-9", "twice", {}, timeout=5)
        with pytest.raises(TimedOut):
            await one.calls.ask("member-1", "unknown", {}, timeout=0.2)
        two.circle.leave()
        await eventually(lambda: not one.circle.members)
        with pytest.raises(Unavailable):
            await one.calls.ask("member-1", "twice", {}, timeout=5)


async def test_a_question_fails_when_who_was_asked_is_gone() -> None:
    async with members(2) as (one, two):
        await eventually(lambda: agree((one, two)))
        asking = asyncio.create_task(one.calls.ask("member-1", "unknown", {}, timeout=30))
        await asyncio.sleep(0)
        two.circle.leave()
        with pytest.raises(Unavailable):
            await asking


async def test_changes_are_followed_and_what_was_missed_is_everything() -> None:
    exchange = Exchange()
    async with members(2, exchange=exchange) as (one, two):
        await eventually(lambda: agree((one, two)) and two.followed[-1:] == [None])
        one.feed.changed("thing", "a")
        one.feed.changed("thing", "b")
        one.feed.changed("other", "c")
        await eventually(lambda: two.followed[-1] == frozenset({"a", "b"}))
        one.feed.changed("thing", "a")
        one.feed.changed("thing", None)
        before = len(two.followed)
        await eventually(lambda: two.followed[before:] == [None])
        exchange.leave()
        exchange.come_back()
        await eventually(lambda: None in two.followed[before + 1 :])


async def test_a_change_that_cannot_be_read_now_is_read_again() -> None:
    async with members(2) as (one, two):
        await eventually(lambda: agree((one, two)))
        read: list[frozenset[str] | None] = []

        async def follow(ids: frozenset[str] | None) -> None:
            read.append(ids)
            if len(read) == 1:
                raise Unavailable("cannot read: the store is away")

        two.feed.on("thing", follow)
        one.feed.changed("thing", "a")
        await eventually(lambda: len(read) == 2)
        assert read == [frozenset({"a"})] * 2
