"""Questions to one member of the circle, each with one answer, although messages may be lost or come twice.

A question is asked again, under the same id, until its answer comes; who is asked works on it once, and remembers the
answer for as long as the same question may still arrive.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiwm.infra.bus.circle import Circle, Part
from aiwm.infra.bus.port import Message
from aiwm.kit.backoff import delays
from aiwm.kit.clock import Clock
from aiwm.kit.ids import new_id
from aiwm.kit.tasks import Tasks
from aiwm.protocol.errors import TimedOut, Unavailable

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 10.0
_REMEMBER_SECONDS = 60.0
_REMEMBER_MOST = 500

Serve = Callable[[Message], Awaitable[Message]]


@dataclass(slots=True)
class _Question:
    member: str
    answer: "asyncio.Future[Message]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Calls(Part):
    """Both ends: `ask` here, `serve` there."""

    def __init__(self, circle: Circle, clock: Clock, tasks: Tasks) -> None:
        self._circle, self._clock, self._tasks = circle, clock, tasks
        self._serve: dict[str, Serve] = {}
        self._asked: dict[str, _Question] = {}
        self._working: set[str] = set()
        self._answers: OrderedDict[str, tuple[float, Message]] = OrderedDict()
        circle.add("calls", self)
        circle.on_direct("question", self._hear_question)
        circle.on_direct("answer", self._hear_answer)

    def serve(self, name: str, serve: Serve) -> None:
        """Names who answers questions of a name; it raises nothing that is not a bug."""
        self._serve[name] = serve

    async def ask(self, member: str, name: str, body: Message, *, timeout: float) -> Message:
        """The member's answer; `Unavailable` when it is gone or the bus is away, `TimedOut` after `timeout` seconds."""
        question_id, question = new_id("question"), _Question(member)
        self._asked[question_id] = question
        message: Message = {"id": question_id, "name": name, "body": body}
        try:
            async with asyncio.timeout(timeout):
                for pause in delays(_FIRST_PAUSE, _LONGEST_PAUSE):
                    if member not in self._circle.members or not await self._circle.send(member, "question", message):
                        raise _gone(member)
                    await asyncio.wait([question.answer], timeout=pause)
                    if question.answer.done():
                        break
                return question.answer.result()
        except TimeoutError as error:
            raise TimedOut(f"cannot tell what became of {name}: controller {member} did not answer in time") from error
        finally:
            question.answer.cancel()
            del self._asked[question_id]

    def _hear_answer(self, sender: str, message: Message) -> None:
        question, body = self._asked.get(str(message.get("id"))), message.get("body")
        if question is not None and question.member == sender and not question.answer.done() and isinstance(body, dict):
            question.answer.set_result(body)

    def _hear_question(self, sender: str, message: Message) -> None:
        question_id, serve, body = (
            str(message.get("id")),
            self._serve.get(str(message.get("name"))),
            message.get("body"),
        )
        if question_id in self._working or serve is None or not isinstance(body, dict):
            return
        self._working.add(question_id)
        self._tasks.spawn(f"answer to {sender}", self._answer(sender, question_id, serve, body))

    async def _answer(self, sender: str, question_id: str, serve: Serve, body: Message) -> None:
        try:
            if question_id not in self._answers:
                self._remember(question_id, await serve(body))
            answer = self._answers[question_id][1]
            await self._circle.send(sender, "answer", {"id": question_id, "body": answer})
        except Unavailable as error:
            log.info("an answer waits until it is asked for again: %s", error.message)
        finally:
            self._working.discard(question_id)

    def _remember(self, question_id: str, answer: Message) -> None:
        now = self._clock.monotonic()
        self._answers[question_id] = (now, answer)
        while len(self._answers) > _REMEMBER_MOST or now - next(iter(self._answers.values()))[0] > _REMEMBER_SECONDS:
            self._answers.popitem(last=False)

    def parted(self, member: str) -> None:
        for question in self._asked.values():
            if question.member == member and not question.answer.done():
                question.answer.set_exception(_gone(member))


def _gone(member: str) -> Unavailable:
    return Unavailable(f"cannot reach controller {member}: it is gone", code="PEER_UNREACHABLE")
