"""The job worker: verifies uploads and removes what deleted models left behind."""

import asyncio
from contextlib import AsyncExitStack

from aiwm.infra.build import open_infra
from aiwm.infra.store.outbox import Relay
from aiwm.kit.settings import Settings
from aiwm.kit.tasks import Tasks
from aiwm.models.jobs import ModelJobs
from aiwm.models.records import CONTENTS
from aiwm.protocol.jobs import MODELS_QUEUE

CONCURRENCY = 4


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Runs a worker until `stop` is set."""
    async with AsyncExitStack() as stack:
        infra = await stack.enter_async_context(open_infra(settings))
        tasks = await stack.enter_async_context(Tasks())
        relay = Relay(infra.store, infra.queues, (CONTENTS,))
        await relay.prepare()
        scratch = settings.data_dir / "worker"
        jobs = ModelJobs(infra.store, infra.objects, infra.clock, relay.wake, scratch)
        tasks.spawn("outbox relay", relay.run())
        tasks.spawn("models queue", infra.queues.consume(MODELS_QUEUE, jobs.handle, concurrency=CONCURRENCY))
        async with tasks.until_failure(stop):
            await stop.wait()
