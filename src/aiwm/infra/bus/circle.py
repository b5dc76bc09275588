"""The processes on one bus that keep each other's pictures complete, although any message may be lost.

Each numbers its news. Who hears a number that is not the next one has missed something, asks for the whole picture and
takes nothing else from that member until it has it. Beats carry the last number, so that silence hides no loss, and a
member that is silent for ten seconds is taken to be gone.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from aiwm.infra.bus.port import Bus, Message
from aiwm.kit.clock import Clock
from aiwm.kit.wake import Wake
from aiwm.protocol.errors import Unavailable

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
SILENT_SECONDS = 10.0
_ASK_AGAIN_SECONDS = 1.0
_ALL = "circle"

Direct = Callable[[str, Message], None]


class Part:
    """One subject that members keep each other informed of. Nothing here may wait."""

    def news(self) -> list[Message]:
        """What is new since the last call."""
        return []

    def whole(self) -> list[Message]:
        """All that a newcomer must know."""
        return []

    def heard(self, member: str, message: Message) -> None:
        """A member's news: each once, in order."""

    def pictured(self, member: str, messages: list[Message]) -> None:
        """All there is at a member: what is not in it is no more, and anything may have changed there."""

    def parted(self, member: str) -> None:
        """A member is gone."""

    def joined(self) -> None:
        """From now on nothing that members do is missed unnoticed; until now, anything may have been."""


@dataclass(slots=True)
class _Picture:
    """What has come of a picture so far; `of` is how many pieces there are."""

    number: int
    of: int | None = None
    pieces: dict[int, tuple[str, Message]] = field(default_factory=dict)


@dataclass(slots=True)
class _Member:
    """`number` is that of the last news taken; None while its picture is incomplete."""

    heard_at: float
    number: int | None = None
    asked_at: float | None = None
    picture: _Picture | None = None


class Circle:
    """This process as a member. `cut_off`: members were lost together with the bus, and may well go on."""

    def __init__(self, bus: Bus, clock: Clock, own_id: str) -> None:
        self._bus, self._clock, self.own_id = bus, clock, own_id
        self._parts: dict[str, Part] = {}
        self._direct: dict[str, Direct] = {}
        self._members: dict[str, _Member] = {}
        self._number, self._beat_at = 0, 0.0
        self._wake, self._saying = Wake(), asyncio.Lock()
        self._reached = True
        self._leaving = self.cut_off = False

    def add(self, name: str, part: Part) -> None:
        """Keeps members informed of one subject more."""
        self._parts[name] = part

    def on_direct(self, kind: str, hear: Direct) -> None:
        """Names who takes messages of a kind that are for this member alone."""
        self._direct[kind] = hear

    @property
    def members(self) -> frozenset[str]:
        """The others."""
        return frozenset(self._members)

    def wake(self) -> None:
        """Some part has news."""
        self._wake.set()

    def leave(self) -> None:
        """Says goodbye now; nothing is told after it."""
        self._leaving = True
        self._wake.set()

    async def send(self, member: str, kind: str, message: Message) -> bool:
        """Sends a message to one member; whether anybody listened. It may still be lost. `Unavailable`, `TooLarge`."""
        direct: Message = {"from": self.own_id, "kind": "direct", "direct": kind, "body": message}
        return await self._bus.publish(_own(member), direct) > 0

    async def run(self) -> None:
        """Takes part until cancelled, through outages."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._bus.listen((_ALL, _own(self.own_id)), self._hear, self._joined))
                group.create_task(self._say_all())
        finally:
            if not self._leaving:
                await self._publish("bye")

    async def _say_all(self) -> None:
        while not self._leaving:
            await self._wake.wait(max(self._beat_at - self._clock.monotonic(), 0.0))
            late = self._clock.monotonic() - self._beat_at
            async with self._saying:
                await self._say_news()
                if late >= 0:
                    await self._publish("beat", number=self._number)
                    self._look(stood_still=self._beat_at > 0 and late > BEAT_SECONDS)
                    self._beat_at = self._clock.monotonic() + BEAT_SECONDS
        await self._publish("bye")

    async def _say_news(self) -> None:
        for name, part in self._parts.items():
            for body in part.news():
                self._number += 1
                # What nobody hears still counts: its number, missing from the next beat, makes the others ask.
                if self._members and self._reached:
                    await self._publish("news", number=self._number, part=name, body=body)

    async def _publish(self, kind: str, to: str = _ALL, **fields: object) -> bool:
        message: Message = {"from": self.own_id, "kind": kind, **fields}
        try:
            await self._bus.publish(to, message)
        except Unavailable as error:
            if self._reached:
                log.warning("other controllers are not told for now: %s", error.message)
            self._reached = False
        else:
            self._reached = True
        return self._reached

    def _look(self, *, stood_still: bool) -> None:
        now = self._clock.monotonic()
        for name, member in list(self._members.items()):
            if stood_still:
                # It was this process: what the others said meanwhile is yet to be heard.
                member.heard_at = now
            elif now - member.heard_at > SILENT_SECONDS:
                self.cut_off = self.cut_off or not self._reached
                self._parted(name, "silent")

    def _parted(self, name: str, why: str) -> None:
        if self._members.pop(name, None) is not None:
            log.warning("a controller is gone", extra={"member": name, "reason": why})
            for part in self._parts.values():
                part.parted(name)

    async def _joined(self) -> None:
        self.cut_off = False
        for member in self._members.values():
            member.number = member.picture = None
        for part in self._parts.values():
            part.joined()
        await self._publish("hello")

    async def _hear(self, topic: str, message: Message) -> None:  # noqa: ARG002 - a sender's topics share one order
        sender, kind = message.get("from"), message.get("kind")
        if not isinstance(sender, str) or sender == self.own_id:
            return
        if kind == "bye":
            self._parted(sender, "it said goodbye")
            return
        member = self._member(sender)
        if kind == "hello":
            await self._answer(sender)
        if kind == "direct":
            self._hear_direct(sender, message)
        elif kind == "picture":
            self._hear_picture(sender, member, message)
        else:
            self._hear_number(sender, member, message)
        await self._ask_if_behind(sender, member)

    def _member(self, name: str) -> _Member:
        now = self._clock.monotonic()
        member = self._members.get(name)
        if member is None:
            member = self._members[name] = _Member(now)
            log.info("another controller is there", extra={"member": name})
        member.heard_at = now
        return member

    def _hear_direct(self, sender: str, message: Message) -> None:
        hear, body = self._direct.get(str(message.get("direct"))), message.get("body")
        if hear is not None and isinstance(body, dict):
            hear(sender, body)

    def _hear_number(self, sender: str, member: _Member, message: Message) -> None:
        number, body = message.get("number"), message.get("body")
        if member.number is None or not isinstance(number, int) or number <= member.number:
            return
        if isinstance(body, dict) and number == member.number + 1:
            member.number = number
            part = self._parts.get(str(message.get("part")))
            if part is not None:
                part.heard(sender, body)
        else:
            member.number = None

    def _hear_picture(self, sender: str, member: _Member, message: Message) -> None:
        number, index, of, body = (message.get(name) for name in ("number", "index", "of", "body"))
        if member.number is not None or not isinstance(number, int):
            return
        member.asked_at = self._clock.monotonic()
        if member.picture is None or number > member.picture.number:
            member.picture = _Picture(number)
        picture = member.picture
        if number == picture.number and isinstance(of, int):
            picture.of = of
        elif number == picture.number and isinstance(index, int) and isinstance(body, dict):
            picture.pieces[index] = (str(message.get("part")), body)
        if len(picture.pieces) == picture.of:
            member.number, member.picture, member.asked_at = picture.number, None, None
            for name, part in self._parts.items():
                part.pictured(sender, [piece for whose, piece in picture.pieces.values() if whose == name])

    async def _ask_if_behind(self, sender: str, member: _Member) -> None:
        now = self._clock.monotonic()
        asked = member.asked_at is not None and now - member.asked_at < _ASK_AGAIN_SECONDS
        if member.number is None and not asked and sender in self._members:
            member.asked_at = now
            await self._publish("hello", _own(sender))

    async def _answer(self, member: str) -> None:
        async with self._saying:
            pieces = [(name, body) for name, part in self._parts.items() for body in part.whole()]
            to, number = _own(member), self._number
            for index, (name, body) in enumerate(pieces):
                if not await self._publish("picture", to, number=number, index=index, part=name, body=body):
                    return
            await self._publish("picture", to, number=number, of=len(pieces))


def _own(member: str) -> str:
    return f"circle:{member}"
