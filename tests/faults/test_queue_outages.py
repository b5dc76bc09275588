"""The queue while Redis is away, and after the death of a consumer in the middle of a job."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import servers
from tests.faults.zygote import lines, zygote

from aiwm.infra.queue.bullmq import BullQueues
from aiwm.infra.queue.port import Job
from aiwm.protocol.errors import Unavailable


class Redis:
    """A Redis that can be taken away and brought back."""

    def __init__(self, folder: Path) -> None:
        self._port, self._log = servers.free_port(), folder / "redis.log"
        self._command = servers.redis_command(self._port, folder)
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.process = servers.start(self._command, self._port, self._log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def back(self) -> None:
        self.process = servers.start(self._command, self._port, self._log)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    found = Redis(tmp_path)
    yield found
    servers.stop(found.process)


async def until(event: asyncio.Event, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        await event.wait()


async def test_a_consumer_outlives_an_outage_and_one_that_began_in_it(redis: Redis) -> None:
    queues, came = BullQueues(redis.url), asyncio.Event()

    async def handler(job: Job) -> None:
        came.set()

    redis.kill()
    consumer = asyncio.create_task(queues.consume("q", handler))
    with pytest.raises(Unavailable):
        await queues.add("q", "x", {})
    for _ in range(2):
        redis.back()
        await queues.add("q", "x", {})
        await until(came)
        came.clear()
        redis.kill()
    consumer.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(consumer, return_exceptions=True)
    await queues.close()


async def test_a_job_that_ends_during_an_outage_is_settled_or_delivered_again(redis: Redis) -> None:
    queues, begun, release, twice = BullQueues(redis.url), asyncio.Event(), asyncio.Event(), asyncio.Event()
    deliveries = 0

    async def handler(job: Job) -> None:
        nonlocal deliveries
        deliveries += 1
        begun.set()
        if job.name == "other":
            twice.set()
        await release.wait()

    consumer = asyncio.create_task(queues.consume("q", handler))
    await queues.add("q", "x", {})
    await until(begun)
    redis.kill()
    release.set()
    redis.back()
    await queues.add("q", "other", {})
    await until(twice)
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)
    assert deliveries == 2
    await queues.close()


def test_a_job_whose_worker_was_killed_is_delivered_again_within_seconds(redis: Redis, tmp_path: Path) -> None:
    handled = tmp_path / "handled"

    async def add() -> None:
        queues = BullQueues(redis.url)
        await queues.add("facts", "fact", {})
        await queues.close()

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 20
        while len(lines(handled)) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with zygote("tests.faults.queue_processes") as source:
        first = source.spawn("handle_for_ever", redis.url, str(handled))
        asyncio.run(add())
        wait_for(1)
        source.spawn("handle_for_ever", redis.url, str(handled))
        source.kill(first)
        killed = time.monotonic()
        wait_for(2)
        assert time.monotonic() - killed < 12


async def test_a_frozen_redis_is_unavailable_within_seconds(redis: Redis) -> None:
    queues = BullQueues(redis.url)
    await queues.add("q", "x", {})
    redis.process.send_signal(19)
    try:
        for call in (queues.add("q", "x", {}), queues.ping()):
            async with asyncio.timeout(8):
                with pytest.raises(Unavailable):
                    await call
    finally:
        redis.process.send_signal(18)
    await queues.close()
