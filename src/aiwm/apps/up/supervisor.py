"""Keeps services running: starts them, knows when they are ready, restarts crashed ones, ends all of them in time."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from aiwm.apps.up import child
from aiwm.apps.up.logfile import last_line, turn
from aiwm.kit.backoff import delays
from aiwm.kit.clock import Clock, SystemClock

log = logging.getLogger(__name__)

USAGE = 2


@dataclass(frozen=True, slots=True)
class Service:
    """One process to keep running.

    `missing` says what it still lacks to be ready, nothing when it is. `patience` is how long it may take to end
    before the next one is told, too.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    missing: Callable[[], Awaitable[str]] | None = None
    inherit: tuple[int, ...] = ()
    patience: float = 1.0


@dataclass(frozen=True, slots=True)
class Policy:
    """How long things may take, in seconds."""

    first_restart: float = 0.5
    longest_restart: float = 30.0
    healthy_after: float = 30.0
    start_within: float = 60.0
    start_attempts: int = 3
    stop_within: float = 9.0
    housekeeping: float = 5.0
    poll: float = 0.05


class CannotStart(Exception):
    """A service did not come up; one line that says which, why, and where its log is. `code` is our exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class _Kept:
    service: Service
    pauses: Iterator[float]
    process: asyncio.subprocess.Process | None = None
    keeping: asyncio.Task[None] | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failed: CannotStart | None = None
    lacks: str = ""
    early_ends: int = 0
    log_start: int = 0


class Supervisor:
    """An async context that owns the services; leaving it ends them, in the reverse order of their start.

    `say` gets one line for each thing worth telling a human.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], None], policy: Policy | None = None, clock: Clock | None = None
    ) -> None:
        self._folder = folder
        self._say = say
        self._policy = policy or Policy()
        self._clock = clock or SystemClock()
        self._kept: dict[str, _Kept] = {}
        self._stopping = False
        self._hurry = asyncio.Event()
        self._cleaning: asyncio.Task[None] | None = None
        self._spawning = 0

    async def __aenter__(self) -> Self:
        child.adopt_orphans()
        self._cleaning = asyncio.create_task(self._housekeep(), name="housekeeping")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def hurry(self) -> None:
        """Kills what has not ended yet when everything is being ended."""
        self._hurry.set()

    def start(self, service: Service) -> None:
        """Starts `service` and keeps it running from now on."""
        kept = _Kept(service, delays(self._policy.first_restart, self._policy.longest_restart))
        self._kept[service.name] = kept
        kept.keeping = asyncio.create_task(self._keep(kept), name=f"keep {service.name}")

    async def ready(self, *names: str) -> None:
        """Waits until the services are ready for the first time. Raises `CannotStart`."""
        for name in names:
            kept = self._kept[name]
            try:
                async with asyncio.timeout(self._policy.start_within):
                    await kept.ready.wait()
            except TimeoutError:
                reason = f"it was not ready within {self._policy.start_within:.0f} s: {kept.lacks}"
                raise self._cannot(kept, reason, 1) from None
            if kept.failed is not None:
                raise kept.failed

    async def _keep(self, kept: _Kept) -> None:
        service = kept.service
        while not self._stopping:
            started = self._clock.monotonic()
            process = await self._spawn(kept)
            code = await self._until_ended(kept, process)
            # Its own children must not go on beside those of the next one.
            child.kill_group(process)
            if self._stopping or self._gave_up(kept, code):
                return
            if self._clock.monotonic() - started >= self._policy.healthy_after:
                kept.pauses = delays(self._policy.first_restart, self._policy.longest_restart)
            pause = next(kept.pauses)
            self._say(f"{service.name} {_how(code)}; starting it again in {pause:.1f} s, its log is {service.log}")
            await self._clock.sleep(pause)

    async def _spawn(self, kept: _Kept) -> asyncio.subprocess.Process:
        service = kept.service
        turn(service.log)
        kept.log_start = service.log.stat().st_size if service.log.exists() else 0
        self._spawning += 1
        try:
            kept.process = await child.spawn(
                service.arguments,
                environment=service.environment,
                folder=self._folder,
                log=service.log,
                inherit=service.inherit,
            )
        finally:
            self._spawning -= 1
        log.info("started %s, pid %s", service.name, kept.process.pid)
        return kept.process

    async def _until_ended(self, kept: _Kept, process: asyncio.subprocess.Process) -> int:
        watching = asyncio.create_task(self._watch_readiness(kept), name=f"readiness of {kept.service.name}")
        try:
            return await process.wait()
        finally:
            watching.cancel()

    async def _watch_readiness(self, kept: _Kept) -> None:
        check = kept.service.missing
        while check is not None and not kept.ready.is_set():
            kept.lacks = await check()
            if not kept.lacks:
                break
            await self._clock.sleep(self._policy.poll)
        kept.ready.set()

    def _gave_up(self, kept: _Kept, code: int) -> bool:
        """Whether a service that never was ready has no prospect of becoming so."""
        if kept.ready.is_set():
            return False
        kept.early_ends += 1
        if code != USAGE and kept.early_ends < self._policy.start_attempts:
            return False
        reason = last_line(kept.service.log, kept.log_start) or _how(code)
        kept.failed = self._cannot(kept, reason, USAGE if code == USAGE else 1)
        kept.ready.set()
        return True

    def _cannot(self, kept: _Kept, reason: str, code: int) -> CannotStart:
        return CannotStart(f"cannot start {kept.service.name}: {reason} (its log is {kept.service.log})", code)

    async def _housekeep(self) -> None:
        """Buries adopted orphans and keeps logs from filling the disk."""
        while True:
            await self._clock.sleep(self._policy.housekeeping)
            # A child that is being spawned looks like an orphan until its spawn returns.
            if not self._spawning:
                child.reap(child.children() - self._own())
            for kept in self._kept.values():
                turn(kept.service.log)

    def _own(self) -> set[int]:
        return {kept.process.pid for kept in self._kept.values() if kept.process is not None}

    async def _stop(self) -> None:
        """Tells one after the other, newest first; what is left at the deadline is killed."""
        self._stopping = True
        if self._cleaning is not None:
            self._cleaning.cancel()
        deadline = self._clock.monotonic() + self._policy.stop_within
        waiting = list(reversed(self._kept.values()))
        for kept in waiting:
            await self._end(kept, deadline)
        for kept in waiting:
            await self._ended(kept, max(0.0, deadline - self._clock.monotonic()))
            if kept.process is not None and kept.process.returncode is None:
                self._say(f"{kept.service.name} did not end in time and is killed")
                child.kill_group(kept.process)
                await kept.process.wait()
            if kept.keeping is not None:
                kept.keeping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await kept.keeping
        await self._end_orphans(deadline)

    async def _end(self, kept: _Kept, deadline: float) -> None:
        process = kept.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await self._ended(kept, min(kept.service.patience, max(0.0, deadline - self._clock.monotonic())))

    async def _ended(self, kept: _Kept, seconds: float) -> None:
        """Waits for the process up to `seconds`, or until somebody is in a hurry."""
        if kept.process is None or kept.process.returncode is not None:
            return
        waits = {asyncio.create_task(kept.process.wait()), asyncio.create_task(self._hurry.wait())}
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()

    async def _end_orphans(self, deadline: float) -> None:
        """What services left behind is asked to end, and killed at the deadline."""
        child.tell(child.children(), signal.SIGTERM)
        while left := child.children():
            child.reap(left)
            if self._clock.monotonic() >= deadline or self._hurry.is_set():
                child.tell(left, signal.SIGKILL)
            await self._clock.sleep(self._policy.poll)


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
