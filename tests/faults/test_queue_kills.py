"""Nothing lost in the queue: writers, consumers and Redis itself are killed at random moments under load."""

import asyncio
import random
import time
from pathlib import Path

from tests import servers
from tests.faults import queue_processes
from tests.faults.zygote import Zygote, lifetime, lines, zygote

from aiwm.infra.queue.bullmq import BullQueues
from aiwm.infra.queue.port import Job

WRITER_KILLS = 200
REDIS_KILLS = 12


class _Crowd:
    """Some processes of one kind, each replaced as soon as it is killed."""

    def __init__(self, source: Zygote, rng: random.Random, most: float, *call: str) -> None:
        self._source, self._rng, self._most, self._call = source, rng, most, call
        self._due: list[tuple[float, int]] = []
        self.killed = 0
        self._names = 0

    def spawn(self) -> None:
        self._names += 1
        call = [part.replace("NAME", f"w{self._names}") for part in self._call]
        self._due.append((time.monotonic() + lifetime(self._rng, self._most), self._source.spawn(*call)))

    def kill_due(self) -> None:
        for due, pid in sorted(self._due):
            if due <= time.monotonic():
                self._due.remove((due, pid))
                self._source.kill(pid)
                self.killed += 1
                self.spawn()

    def kill_all(self) -> None:
        for _, pid in self._due:
            self._source.kill(pid)
        self._due.clear()


async def _drain(url: str, wanted: set[str], handled: Path, told: Path, seconds: float) -> None:
    queues = BullQueues(url)

    async def handler(job: Job) -> None:
        with handled.open("a") as out:
            out.write(f"{job.id}\n")
        queue_processes.tell_once(job.id, told)

    consumer = asyncio.create_task(queues.consume(queue_processes.QUEUE, handler, concurrency=16))
    try:
        async with asyncio.timeout(seconds):
            while not wanted <= set(lines(handled)):  # noqa: ASYNC110 - other processes write it
                await asyncio.sleep(0.2)
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
        await queues.close()


def test_no_acknowledged_fact_is_lost_and_each_is_told_once(tmp_path: Path) -> None:
    rng = random.Random(20261123)
    port = servers.free_port()
    url, told = f"redis://127.0.0.1:{port}/0", tmp_path / "told"
    told.mkdir()
    acknowledged, handled = tmp_path / "acknowledged", tmp_path / "handled"
    command = servers.redis_command(port, tmp_path)
    redis = servers.start(command, port, tmp_path / "redis.log")
    began = time.monotonic()
    try:
        with zygote("tests.faults.queue_processes") as source:
            writers = _Crowd(source, rng, 0.25, "write", url, str(acknowledged), "NAME")
            handlers = _Crowd(source, rng, 0.6, "handle", url, str(handled), str(told))
            for _ in range(3):
                writers.spawn()
            for _ in range(2):
                handlers.spawn()
            redis_kills = 0
            while writers.killed < WRITER_KILLS:
                writers.kill_due()
                handlers.kill_due()
                if writers.killed > (redis_kills + 1) * WRITER_KILLS / (REDIS_KILLS + 1):
                    redis.kill()
                    redis.wait()
                    redis_kills += 1
                    redis = servers.start(command, port, tmp_path / "redis.log")
                time.sleep(0.002)
            writing = time.monotonic() - began
            writers.kill_all()
            handlers.kill_all()
        wanted = set(lines(acknowledged))
        asyncio.run(_drain(url, wanted, handled, told, 60))
    finally:
        servers.stop(redis)
    deliveries = lines(handled)
    print(
        f"{len(wanted)} facts in {writing:.1f} s ({len(wanted) / writing:.0f}/s), {writers.killed} writers,"
        f" {handlers.killed} handlers, {redis_kills} Redis killed; {len(deliveries) - len(set(deliveries))} again"
    )
    assert redis_kills >= REDIS_KILLS
    assert len(wanted) / writing >= 50
    assert wanted <= set(deliveries)
    assert wanted <= {path.name for path in told.iterdir()}
