# ruff: noqa: ARG002 - a fake looks at little of what it is given
"""Engines that serve at once and use nothing: for simulated nodes and for measuring everything around an engine."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiwm.daemon.engines.base import Address, Engine, EnginePlan, Ports, Trial, Verdict
from aiwm.daemon.launchers.port import NO_LIMITS, Ended, Room, Running, Tell
from aiwm.protocol.node_channel import DeployCommand, EngineNumbers, LogsResult
from aiwm.protocol.resources.nodes import ConditionReport
from aiwm.protocol.states import EngineName

_REMEMBERED = 1000


class FakeEngine:
    """Plans nothing and never fails."""

    def version(self) -> str | None:
        return None

    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        return EnginePlan(argv=(order.engine,), environment={}, ready=())

    async def try_out(self, order: DeployCommand, base: str) -> Trial:
        return Trial(Verdict.WORKED)

    def numbers(self, order: DeployCommand, page: str) -> EngineNumbers:
        return EngineNumbers()

    def explain(self, log: str) -> str | None:
        return None

    def port_taken(self, log: str) -> bool:
        return False


class FakeLauncher:
    """Remembers what it was told to start; `crash` lets an engine end, `answering` is its health.

    `latest_starts` are moments by `time.monotonic`, which processes of one machine share; `written` is what each engine
    wrote.
    """

    names: Sequence[str] = ("fake",)

    def __init__(self) -> None:
        self.engines: Mapping[EngineName, Engine] = {name: FakeEngine() for name in EngineName}
        self.seen: dict[Path, Running | Ended] = {}
        self.starts = 0
        self.latest_starts: deque[float] = deque(maxlen=_REMEMBERED)
        self.answering = True
        self.written = ""

    def engine(self, order: DeployCommand) -> Engine | None:
        return self.engines.get(order.engine)

    def check(self, order: DeployCommand) -> None:
        """There is nothing that could not be allowed."""

    async def open(self) -> None:
        """There is nothing to learn."""

    async def follow(self) -> None:
        """Nothing happens but what tests do."""

    def conditions(self) -> list[ConditionReport]:
        return []

    async def provide(self, plan: EnginePlan, tell: Tell) -> None:
        """A fake needs nothing."""

    async def start(self, folder: Path, plan: EnginePlan, room: Room = NO_LIMITS) -> Running:
        self.starts += 1
        self.latest_starts.append(time.monotonic())
        # No process has this pid: a fake engine's usage must not be that of some program here.
        running = Running(pid=0, start_time=self.starts)
        self.seen[folder] = running
        return running

    def status(self, folder: Path) -> Running | Ended | None:
        return self.seen.get(folder)

    def outlives(self, folder: Path) -> bool:
        return False

    async def ready(self, folder: Path, probes: tuple[str, ...]) -> bool:
        return self.answering and isinstance(self.seen.get(folder), Running)

    async def stop(self, folder: Path, grace: float) -> None:
        self.seen.pop(folder, None)

    async def logs(self, folder: Path, *, tail: int, offset: int | None) -> LogsResult:
        return LogsResult(text="", next_offset=0)

    async def output(self, folder: Path) -> str:
        return self.written

    def crash(self, folder: Path, reason: str = "ended with code 1") -> None:
        """The engine in `folder` ends by itself."""
        self.seen[folder] = Ended(reason)
