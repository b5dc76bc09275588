"""Many daemons in one process: started, struck by faults, counted, and ended together."""

import asyncio
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.daemon.launchers.port import Running
from aiwm.kit.clock import SystemClock
from aiwm.kit.settings import Settings
from aiwm.kit.tasks import Tasks
from aiwm.testing.faults import Faults, Lots, skew_of
from aiwm.testing.simulated import SimulatedTelemetry, SkewedClock
from aiwm.testing.weather import Weather

_TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Count:
    """Of all nodes since the start; `command_p95` in seconds over the latest commands of each, None before any."""

    nodes: int
    connected: int
    reconnects: int
    sent: int
    commands: int
    command_p95: float | None
    engines: int


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    daemon: Daemon
    launcher: FakeLauncher


class Fleet:
    """An async context. `settings` say where the controller is; every node has its own folder below `folder`.

    The same `seed` gives the same machines and, as far as the order of arrival allows, the same faults.
    """

    def __init__(
        self, settings: Settings, folder: Path, *, gpus: int = 8, faults: Faults | None = None, seed: int = 0
    ) -> None:
        self._settings, self._folder, self._gpus = settings, folder, gpus
        self._faults = faults or Faults()
        self._seed, self._rng = seed, random.Random(seed)  # noqa: S311 - no secret
        self._clock = SystemClock()
        self._members: list[_Member] = []
        self._running: list[asyncio.Task[None]] = []
        self._tasks = Tasks()
        self.weather = Weather(self._faults.slow)
        self.failed = self._tasks.failed

    async def __aenter__(self) -> "Fleet":
        self._tasks.spawn("faults", self._strike())
        if self._faults.cut is not None:
            self._tasks.spawn("cuts", self._cut(*self._faults.cut))
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self._members:
            member.daemon.stop()
        if self._running:
            await asyncio.wait(self._running)
        await self._tasks.cancel()

    @property
    def error(self) -> BaseException | None:
        """What a daemon died of, if one did."""
        return self._tasks.error

    def start(self, name: str, token: str, *, nodes: int) -> None:
        """Runs the node `name`, one of `nodes` that there are going to be."""
        rng = random.Random(f"{self._seed} {name}")  # noqa: S311 - no secret
        launcher = FakeLauncher()
        settings = replace(self._settings, data_dir=self._folder / name, node_token=token, advertise_host="")
        off = skew_of(len(self._members), nodes, self._faults, rng)
        daemon = Daemon(
            settings,
            launcher=launcher,
            telemetry=SimulatedTelemetry(name, self._gpus, rng),
            clock=SkewedClock(off) if off else self._clock,
        )
        self._members.append(_Member(name, daemon, launcher))
        with self.weather.over(name):
            self._running.append(self._tasks.spawn(f"daemon of {name}", daemon.run()))

    def count(self) -> Count:
        """How it stands now."""
        tallies = [member.daemon.tally for member in self._members]
        taken = [seconds for tally in tallies for seconds in tally.command_seconds]
        return Count(
            nodes=len(tallies),
            connected=sum(tally.connected for tally in tallies),
            reconnects=sum(max(0, tally.registrations - 1) for tally in tallies),
            sent=sum(tally.sent for tally in tallies),
            commands=sum(tally.commands for tally in tallies),
            command_p95=_p95(taken),
            engines=sum(len(_engines(member)) for member in self._members),
        )

    def starts(self) -> list[float]:
        """When engines were told to start, in order: moments of `time.monotonic`, the latest of each node."""
        return sorted(moment for member in self._members for moment in member.launcher.latest_starts)

    async def _strike(self) -> None:
        flaps, crashes = Lots(self._faults.flap, self._rng), Lots(self._faults.crash, self._rng)
        while True:
            await self._clock.sleep(_TICK_SECONDS)
            for name in flaps.draw([member.name for member in self._members], _TICK_SECONDS):
                self.weather.flap(name)
            engines = {str(folder): member for member in self._members for folder in _engines(member)}
            for folder in crashes.draw(sorted(engines), _TICK_SECONDS):
                engines[folder].launcher.crash(Path(folder))

    async def _cut(self, seconds: float, every: float) -> None:
        while True:
            await self._clock.sleep(every - seconds)
            self.weather.cut()
            await self._clock.sleep(seconds)
            self.weather.heal()


def _engines(member: _Member) -> list[Path]:
    return [folder for folder, status in member.launcher.seen.items() if isinstance(status, Running)]


def _p95(taken: Sequence[float]) -> float | None:
    if len(taken) < 2:
        return taken[0] if taken else None
    return statistics.quantiles(taken, n=100, method="inclusive")[94]
