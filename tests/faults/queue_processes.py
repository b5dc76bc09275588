"""What the killed processes of the queue's fault tests do: write facts, and handle them."""

import asyncio
import os
from pathlib import Path

from aiwm.infra.queue.bullmq import BullQueues
from aiwm.infra.queue.port import Job, JobOptions
from aiwm.protocol.errors import Unavailable

QUEUE = "facts"


def _note(path: str, line: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


async def write(url: str, acknowledged: str, name: str) -> None:
    """Adds facts for ever; each id is noted once the queue has acknowledged it."""
    queues = BullQueues(url)
    number = 0
    while True:
        fact = f"{name}-{number}"
        try:
            await queues.add(QUEUE, "fact", {"fact": fact}, JobOptions(job_id=fact, attempts=20, backoff=0.05))
        except Unavailable:
            continue
        _note(acknowledged, fact)
        number += 1


async def handle(url: str, handled: str, told: str) -> None:
    """Handles facts for ever: notes every delivery, and tells each fact only if nobody has."""

    async def handler(job: Job) -> None:
        _note(handled, job.id)
        tell_once(job.id, Path(told))

    await BullQueues(url).consume(QUEUE, handler, concurrency=4)


def tell_once(fact: str, told: Path) -> bool:
    """Whether this call told it: a name can be made only once, whoever tries, however often."""
    try:
        os.close(os.open(told / fact, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


async def handle_for_ever(url: str, handled: str) -> None:
    """Takes one job and never ends it."""

    async def handler(job: Job) -> None:
        _note(handled, job.id)
        await asyncio.Event().wait()

    await BullQueues(url).consume(QUEUE, handler)
