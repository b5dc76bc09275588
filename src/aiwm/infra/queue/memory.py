"""Queues in this process's memory: the fast twin of the real ones, for tests and single-process tools."""

import asyncio
import heapq
import itertools
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from aiwm.infra.queue.delivery import (
    REMEMBER_DONE,
    REMEMBER_DONE_SECONDS,
    REMEMBER_FAILED,
    Failure,
    check_job_id,
    deliver,
)
from aiwm.infra.queue.port import Handler, Job, JobData, JobOptions
from aiwm.kit.clock import Clock, SystemClock
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import Unavailable

_PLAIN = JobOptions()


@dataclass(slots=True)
class _Entry:
    id: str
    name: str
    text: str
    options: JobOptions
    attempt: int = 0


@dataclass(slots=True)
class _Queue:
    due: list[tuple[float, int, _Entry]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    done: OrderedDict[str, float] = field(default_factory=OrderedDict)
    failed: OrderedDict[str, tuple[Job, str]] = field(default_factory=OrderedDict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryQueues:
    """Everything is lost with the process; several consumers of one queue share its jobs."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._queues: dict[str, _Queue] = {}
        self._order = itertools.count()
        self._closed = False

    def failed(self, queue: str) -> list[tuple[Job, str]]:
        """The failed set: each job with its reason, oldest first."""
        return list(self._queue(queue).failed.values())

    async def add(self, queue: str, name: str, data: JobData, options: JobOptions = _PLAIN) -> str:
        self._check_open()
        entry = _Entry(check_job_id(options.job_id or new_id("job")), name, json.dumps(data, allow_nan=False), options)
        self._add(queue, entry)
        return entry.id

    async def add_foreign(self, queue: str, name: str, text: str) -> str:
        """Adds a job the way another writer might: `text` need not even be JSON."""
        entry = _Entry(new_id("job"), name, text, JobOptions())
        self._add(queue, entry)
        return entry.id

    def _add(self, queue: str, entry: _Entry) -> None:
        state = self._queue(queue)
        self._forget_old(state)
        if entry.id in state.known:
            return
        state.known.add(entry.id)
        self._schedule(state, entry, entry.options.delay)

    async def consume(self, queue: str, handler: Handler, *, concurrency: int = 8) -> None:
        self._check_open()
        state = self._queue(queue)
        slots = asyncio.Semaphore(concurrency)
        running: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            slots.release()

        try:
            while True:
                await slots.acquire()
                entry = await self._next(state)
                task = asyncio.create_task(self._run(queue, state, handler, entry), name=f"{queue} job {entry.id}")
                running.add(task)
                task.add_done_callback(ended)
        finally:
            if running:
                await asyncio.wait(list(running))

    async def ping(self) -> None:
        self._check_open()

    async def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("cannot use the queue: it is closed", code="QUEUE_UNAVAILABLE")

    def _queue(self, name: str) -> _Queue:
        return self._queues.setdefault(name, _Queue())

    def _schedule(self, state: _Queue, entry: _Entry, delay: float) -> None:
        heapq.heappush(state.due, (self._clock.monotonic() + delay, next(self._order), entry))
        state.changed.set()

    async def _next(self, state: _Queue) -> _Entry:
        while True:
            state.changed.clear()
            wait: float | None = None
            if state.due:
                wait = state.due[0][0] - self._clock.monotonic()
                if wait <= 0:
                    return heapq.heappop(state.due)[2]
            await self._changed_within(state, wait)

    async def _changed_within(self, state: _Queue, seconds: float | None) -> None:
        """Returns when the queue changed or the next job is due by this queue's own clock, whichever is first."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(state.changed.wait())]
        if seconds is not None:
            waits.append(asyncio.create_task(self._sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    async def _run(self, queue: str, state: _Queue, handler: Handler, entry: _Entry) -> None:
        entry.attempt += 1
        job, failure = Job(entry.id, entry.name, None, entry.attempt), None
        try:
            job = Job(entry.id, entry.name, json.loads(entry.text), entry.attempt)
        except (ValueError, RecursionError) as error:
            failure = Failure(f"cannot read the job: {error}", again=False)
        failure = failure or await deliver(queue, handler, job)
        if failure is None:
            state.done[entry.id] = self._clock.monotonic()
        elif failure.again and entry.attempt < entry.options.attempts:
            self._schedule(state, entry, entry.options.backoff * 2 ** (entry.attempt - 1))
        else:
            state.failed[entry.id] = (job, failure.reason)

    def _forget_old(self, state: _Queue) -> None:
        oldest = self._clock.monotonic() - REMEMBER_DONE_SECONDS
        while state.done and (len(state.done) > REMEMBER_DONE or next(iter(state.done.values())) < oldest):
            state.known.discard(state.done.popitem(last=False)[0])
        while len(state.failed) > REMEMBER_FAILED:
            state.known.discard(state.failed.popitem(last=False)[0])
