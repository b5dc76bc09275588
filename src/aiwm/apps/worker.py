"""The job worker: verifies uploads and removes what deleted models left behind."""

import asyncio
import logging
from contextlib import AsyncExitStack

from aiwm.infra.build import open_infra
from aiwm.infra.store.outbox import Relay
from aiwm.kit.clock import Clock
from aiwm.kit.settings import Settings
from aiwm.kit.tasks import Tasks
from aiwm.models.jobs import ModelJobs
from aiwm.models.records import CONTENTS
from aiwm.models.uploads import UploadService
from aiwm.protocol.errors import AiwmError
from aiwm.protocol.jobs import MODELS_QUEUE

log = logging.getLogger(__name__)

CONCURRENCY = 4
SWEEP_SECONDS = 600.0


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Runs a worker until `stop` is set."""
    async with AsyncExitStack() as stack:
        infra = await stack.enter_async_context(open_infra(settings))
        tasks = await stack.enter_async_context(Tasks())
        relay = Relay(infra.store, infra.queues, (CONTENTS,))
        await relay.prepare()
        scratch = settings.data_dir / "worker"
        jobs = ModelJobs(infra.store, infra.objects, infra.clock, relay.wake, scratch)
        uploads = UploadService(infra.store, infra.objects, infra.clock, relay.wake)
        tasks.spawn("outbox relay", relay.run())
        tasks.spawn("expired uploads", _forget_expired(uploads, infra.clock))
        tasks.spawn("models queue", infra.queues.consume(MODELS_QUEUE, jobs.handle, concurrency=CONCURRENCY))
        async with tasks.until_failure(stop):
            await stop.wait()


async def _forget_expired(uploads: UploadService, clock: Clock) -> None:
    while True:
        try:
            while await uploads.forget_expired():
                pass
        except AiwmError as error:
            if not error.retryable:
                raise
            log.warning("expired uploads wait: %s", error.message)
        await clock.sleep(SWEEP_SECONDS)
