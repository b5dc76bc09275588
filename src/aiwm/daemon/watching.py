"""Looking after one engine: whether it answers, what it counts, and now and then a tiny inference."""

import asyncio
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from aiwm.daemon.engines.base import Engine, Trial, Verdict
from aiwm.daemon.health import Answer, Judgement, Memory, Reading, due, judge, seen, tried
from aiwm.daemon.launchers.port import Launcher, Running
from aiwm.daemon.launchers.probe import any_answers
from aiwm.daemon.replicas import Policy, ReplicaRecord, shorten
from aiwm.daemon.scrape import read_page
from aiwm.kit.clock import Clock
from aiwm.protocol.node_channel import EngineNumbers

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Watch:
    """One run of one engine. `host` is where this machine reaches it; without `engine` nobody knows its numbers."""

    record: ReplicaRecord
    engine: Engine | None
    launcher: Launcher
    folder: Path
    clock: Clock
    policy: Policy
    host: str
    memory: Memory = field(init=False)

    def __post_init__(self) -> None:
        self.memory = Memory(tried_at=self.clock.monotonic(), trouble=self.record.trouble)

    @property
    def counted(self) -> EngineNumbers | None:
        """The numbers of the last look, if they could be read."""
        return self.memory.numbers if self.memory.known else None

    async def ready(self) -> bool:
        """Whether the engine says that it serves."""
        return await self.launcher.ready(self.folder, tuple(self.record.probes))

    async def answer(self) -> Answer:
        """What the engine says to whether it serves."""
        status = self.launcher.status(self.folder)
        if isinstance(status, Running) and status.note is not None:
            # What somebody paused answers nothing, and each question would wait for that.
            return Answer.NONE
        if await self.ready():
            return Answer.READY
        return Answer.NOT_READY if await any_answers(tuple(self.record.probes)) else Answer.NONE

    async def try_out(self, seconds: float) -> Trial:
        """One tiny inference; what has no answer in time, or none that can be read, is silent."""
        if self.engine is None:
            return Trial(Verdict.UNTRIED, "this node no longer has the engine")
        try:
            async with asyncio.timeout(seconds):
                trial = await self.engine.try_out(self.record.order, f"http://{self.host}:{self.record.port}")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            cause = "" if isinstance(error, TimeoutError) else f": {error}"
            trial = Trial(Verdict.SILENT, f"it had no answer within {seconds:.0f} s{cause}")
        except Exception:
            # What an engine answers is not ours to choose: it may cost its own trial, and never the daemon.
            log.exception("a trial of replica %s ended by a bug", self.record.replica_id)
            trial = Trial(Verdict.UNTRIED, "its answer could not be read")
        if trial.verdict is not Verdict.WORKED:
            log.info("a trial of replica %s: %s: %s", self.record.replica_id, trial.verdict, trial.words)
        return replace(trial, words=shorten(trial.words))

    async def look(self) -> Judgement:
        """How the engine does now."""
        answer = await self.answer()
        self.memory = seen(self.memory, Reading(self.clock.monotonic(), answer, await self._numbers()))
        if due(self.memory, self.clock.monotonic(), self.policy):
            trial = await self.try_out(self.policy.trial_seconds)
            self.memory = tried(self.memory, trial, self.clock.monotonic())
        return judge(self.memory, self.policy)

    async def _numbers(self) -> EngineNumbers | None:
        """What the engine counts; None when that cannot be read, which says nothing about how it does."""
        if self.engine is None or self.record.metrics is None:
            return None
        page = await read_page(self.record.metrics)
        if page is None:
            return None
        try:
            return self.engine.numbers(self.record.order, page)
        except ValueError as error:
            log.warning("the numbers of replica %s cannot be read: %s", self.record.replica_id, error)
        except Exception:
            log.exception("reading the numbers of replica %s ended by a bug", self.record.replica_id)
        return None


class Trying:
    """The one trial before an engine counts as running, beside which is still looked whether it lives."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._trial: asyncio.Task[Trial] | None = None

    async def __aenter__(self) -> "Trying":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._trial is not None:
            self._trial.cancel()
            await asyncio.gather(self._trial, return_exceptions=True)

    def begin(self, seconds: float) -> None:
        """Asks, unless an answer is waited for already; the first inference of a model may take minutes."""
        if self._trial is None:
            self._trial = asyncio.create_task(self._watch.try_out(seconds))

    def result(self) -> Trial | None:
        """What came of it. One that broke off without an answer is none, and may begin again."""
        if self._trial is None or not self._trial.done():
            return None
        trial, self._trial = self._trial.result(), None
        return None if trial.verdict is Verdict.SILENT else trial
