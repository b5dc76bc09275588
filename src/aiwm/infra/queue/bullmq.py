"""Queues on Redis, wire-compatible with the npm package BullMQ in both directions.

The library's `Worker` is used for its scripts, locks and stall checks, but not for its `run()`: that one raises when
Redis is away at the start, spins while it closes in an outage, stops renewing locks before running jobs have ended,
and records a job that succeeded as failed when the answer got lost. The loop here has none of these.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import bullmq
from bullmq.custom_errors import UnrecoverableError
from bullmq.redis_connection import RedisConnection
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aiwm.infra.queue.delivery import (
    REMEMBER_DONE,
    REMEMBER_DONE_SECONDS,
    REMEMBER_FAILED,
    REMEMBER_FAILED_SECONDS,
    Failure,
    check_job_id,
    deliver,
)
from aiwm.infra.queue.port import Handler, Job, JobData, JobOptions
from aiwm.kit.backoff import delays
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import Unavailable

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
LOCK_MS = 5_000
STALL_CHECK_MS = 2_000
MAX_STALLS = 10
IDLE_WAIT_SECONDS = 5
_OUTAGE = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, OSError)
_PLAIN = JobOptions()
_KEEP_DONE = {"age": REMEMBER_DONE_SECONDS, "count": REMEMBER_DONE}
_KEEP_FAILED = {"age": REMEMBER_FAILED_SECONDS, "count": REMEMBER_FAILED}


def _redis(url: str, *, answer_seconds: float, connections: int = 16) -> "Redis":
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=ANSWER_SECONDS,
        decode_responses=True,
        encoding_errors="replace",
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        retry_on_error=[RedisConnectionError, RedisTimeoutError, BusyLoadingError],
        socket_connect_timeout=2,
        socket_timeout=answer_seconds,
        health_check_interval=15,
    )
    return Redis.from_pool(pool)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise Unavailable(
            f"cannot {what}: Redis: {str(error) or type(error).__name__}", code="QUEUE_UNAVAILABLE"
        ) from error


class BullQueues:
    """Queues `bull:<name>:*` on the Redis at `url` (`redis://`, `rediss://`, `unix://`)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._redis = _redis(url, answer_seconds=3)
        self._queues: dict[str, Any] = {}

    async def add(self, queue: str, name: str, data: JobData, options: JobOptions = _PLAIN) -> str:
        # An own id even when nobody asked for one: a repeat after a lost answer must not add the job twice.
        job_id = check_job_id(options.job_id or new_id("job"))
        target = self._queue(queue)
        with _translated(f"add a job to queue {queue}"):
            async with asyncio.timeout(ANSWER_SECONDS):
                await target.add(name, data, _wire_options(job_id, options))
        return job_id

    async def consume(self, queue: str, handler: Handler, *, concurrency: int = 8) -> None:
        async with _Consumer(self._url, queue, handler, concurrency) as consumer:
            await consumer.run()

    async def ping(self) -> None:
        with _translated("reach the queue"):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()

    def _queue(self, name: str) -> Any:
        if name not in self._queues:
            self._queues[name] = bullmq.Queue(name, {"connection": self._redis})
        return self._queues[name]


def _wire_options(job_id: str, options: JobOptions) -> dict[str, object]:
    return {
        "jobId": job_id,
        "delay": round(options.delay * 1000),
        "attempts": options.attempts,
        "backoff": {"type": "exponential", "delay": round(options.backoff * 1000)},
        "removeOnComplete": _KEEP_DONE,
        "removeOnFail": _KEEP_FAILED,
    }


def _mend(options: dict[str, Any]) -> None:
    """Gives what other writers left out or got wrong a value that the library can settle a job with."""
    options.setdefault("removeOnComplete", _KEEP_DONE)
    options.setdefault("removeOnFail", _KEEP_FAILED)
    if type(options.get("attempts")) is not int:
        options["attempts"] = 1
    backoff = options.get("backoff")
    if not (isinstance(backoff, dict) and backoff.get("type") in ("fixed", "exponential")):
        backoff = {"type": "exponential"}
    if type(backoff.get("delay")) is not int:
        backoff["delay"] = round(_PLAIN.backoff * 1000)
    options["backoff"] = backoff


class _Worker(bullmq.Worker):  # type: ignore[misc]
    """The library's worker, except that a job it cannot read is failed with a reason instead of stalling."""

    async def getNextJob(self, token: str) -> Any:
        return None if self.closing else await super().getNextJob(token)

    async def nextJobFromJobData(self, job_data: Any = None, job_id: Any = None, *rest: Any) -> Any:
        try:
            return await super().nextJobFromJobData(job_data, job_id, *rest)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            unread = {"name": job_data.get("name"), "data": "null", "defa": f"cannot read the job: {error}"}
            return await super().nextJobFromJobData(unread, job_id, *rest)


class _Consumer:
    """One queue's consumer: a fetcher, the jobs it started, their locks, and the check for stalled ones."""

    def __init__(self, url: str, queue: str, handler: Handler, concurrency: int) -> None:
        self._queue = queue
        self._handler = handler
        self._slots = asyncio.Semaphore(concurrency)
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._tokens = 0
        self._worker = _Worker(
            queue,
            None,
            {
                "connection": _redis(url, answer_seconds=3, connections=concurrency + 4),
                "autorun": False,
                "lockDuration": LOCK_MS,
                "stalledInterval": STALL_CHECK_MS,
                "maxStalledCount": MAX_STALLS,
                "drainDelay": IDLE_WAIT_SECONDS,
            },
        )
        # Waiting for a job takes longer than any answer may, so it needs a client of its own.
        waiting = RedisConnection(_redis(url, answer_seconds=15, connections=2))
        self._worker.backend.blocking_connection = self._worker.blockingRedisConnection = waiting
        self._worker.on("error", self._note)

    async def __aenter__(self) -> "_Consumer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._worker.lockManager.close()
        await self._worker.backend.close(force=True)

    async def run(self) -> None:
        """Until cancelled; then no new job is fetched, and the running ones end first."""
        self._worker.lockManager.start()
        stalls = asyncio.create_task(self._check_stalls(), name=f"{self._queue} stall check")
        fetching = asyncio.create_task(self._fetch_all(), name=f"{self._queue} fetcher")
        try:
            await asyncio.shield(fetching)
        finally:
            try:
                await self._end_fetching(fetching)
                if self._running:
                    await asyncio.wait(list(self._running))
            finally:
                left = [fetching, stalls, *self._running]
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)

    async def _end_fetching(self, fetching: "asyncio.Task[None]") -> None:
        self._stopping = self._worker.closing = True
        self._slots.release()
        if self._worker.waiting:
            self._worker.waiting.cancel()
        # A fetch that is under way may already have its job: it is let finish, and cut off only in an outage.
        await asyncio.wait([fetching], timeout=3)

    async def _fetch_all(self) -> None:
        pauses, away = delays(0.1, 2), False
        while not self._stopping:
            await self._slots.acquire()
            if self._stopping:
                return
            job = None
            try:
                # Without it, delayed jobs start up to a second late: the library does not ask what Redis can do.
                await self._worker.blockingRedisConnection.getRedisVersion()
                job = await self._worker.getNextJob(self._next_token())
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("queue %s cannot be reached, trying until it can: %s", self._queue, error)
                away = True
                if not self._stopping:
                    await asyncio.sleep(next(pauses))
            else:
                if away:
                    log.info("queue %s is reached again", self._queue)
                    pauses, away = delays(0.1, 2), False
            finally:
                if job is None:
                    self._slots.release()
            if job is not None:
                self._start(job)

    def _next_token(self) -> str:
        self._tokens += 1
        return f"{self._worker.id}:{self._tokens}"

    def _start(self, job: Any) -> None:
        task = asyncio.create_task(self._run_job(job), name=f"{self._queue} job {job.id}")
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a job of queue %s could not be settled", self._queue, exc_info=error)

    async def _run_job(self, raw: Any) -> None:
        self._worker.lockManager.track_job(raw.id, raw.token, round(time.time() * 1000))
        try:
            if raw.deferredFailure:
                failure: Failure | None = Failure(str(raw.deferredFailure), again=False)
                log.warning("job %s of queue %s failed: %s", raw.id, self._queue, raw.deferredFailure)
            else:
                job = Job(raw.id, str(raw.name or ""), raw.data, raw.attemptsMade + 1)
                failure = await deliver(self._queue, self._handler, job)
            await self._settle(raw, failure)
        finally:
            self._worker.lockManager.untrack_job(raw.id)

    async def _settle(self, raw: Any, failure: Failure | None) -> None:
        """Tells Redis what became of the job, through a short outage; after a long one it is delivered again."""
        _mend(raw.opts)
        raw.attempts = raw.opts["attempts"]
        cause: Exception | None = None
        for pause, _ in zip(delays(0.2, 2), range(5), strict=False):
            try:
                if failure is None:
                    await raw.moveToCompleted(None, raw.token)
                else:
                    kind = Exception if failure.again else UnrecoverableError
                    await raw.moveToFailed(kind(failure.reason), raw.token)
            except _OUTAGE as error:
                cause = error
                if self._stopping:
                    break
                await asyncio.sleep(pause)
            except Exception as error:  # noqa: BLE001 - the library has no own type for "the lock is lost"
                cause = error
                break
            else:
                return
        log.warning("job %s of queue %s may be delivered again: %s", raw.id, self._queue, cause)

    async def _check_stalls(self) -> None:
        while True:
            await self._worker.runStalledJobsCheck()
            await asyncio.sleep(STALL_CHECK_MS / 1000)

    def _note(self, error: Exception, *_: object) -> None:
        level = logging.DEBUG if isinstance(error, _OUTAGE) else logging.WARNING
        log.log(level, "queue %s: %s", self._queue, error)
