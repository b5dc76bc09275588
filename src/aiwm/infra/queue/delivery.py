"""What becomes of a job after its handler ran: the one place that sorts failures, for every queue."""

import asyncio
import logging
from dataclasses import dataclass

from aiwm.infra.queue.port import Handler, Job
from aiwm.protocol.errors import AiwmError

log = logging.getLogger(__name__)

REMEMBER_DONE_SECONDS = 3600
REMEMBER_DONE = 10_000
REMEMBER_FAILED_SECONDS = 7 * 86_400
REMEMBER_FAILED = 1_000


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a handler failed, in one line, and whether trying again may help."""

    reason: str
    again: bool


async def deliver(queue: str, handler: Handler, job: Job) -> Failure | None:
    """Runs the handler; None when it succeeded. A bug is logged with its traceback and counts as worth trying again."""
    try:
        await handler(job)
    except AiwmError as error:
        log.warning("job %s %s of queue %s failed: %s", job.name, job.id, queue, error.message)
        return Failure(f"{error.code}: {error.message}", error.retryable)
    except asyncio.CancelledError:
        # Only our own cancellation ends the consumer; one that the handler let slip is a bug like any other.
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        log.exception("job %s %s of queue %s was cancelled from within", job.name, job.id, queue)
        return Failure("bug: the handler was cancelled from within", again=True)
    except Exception as error:
        log.exception("job %s %s of queue %s hit a bug", job.name, job.id, queue)
        return Failure(f"bug: {type(error).__name__}: {error}", again=True)
    return None


def check_job_id(job_id: str) -> str:
    """`job_id` if every queue can hold it; a wrong one is a bug of the caller (`ValueError`)."""
    if not job_id or ":" in job_id or job_id.isdigit():
        raise ValueError(f"a job id is not empty, not a number and has no ':', but it is {job_id!r}")
    return job_id
