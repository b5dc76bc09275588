"""The queue port: named queues of named jobs with JSON data, delivered at least once.

A handler that raises a retryable `AiwmError` (or a bug) is tried again with exponential backoff until the job's
attempts are used up; any other `AiwmError` sends the job to the failed set at once, with its reason. A job whose
worker died is delivered again.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

JobData = dict[str, object]


@dataclass(frozen=True, slots=True)
class JobOptions:
    """`job_id`: a job with an id the queue still remembers is not added again. Delays in seconds."""

    job_id: str | None = None
    delay: float = 0.0
    attempts: int = 5
    backoff: float = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """A delivered job; `attempt` counts from 1. `data` may be anything JSON can hold: others write to queues too."""

    id: str
    name: str
    data: object
    attempt: int


Handler = Callable[[Job], Awaitable[None]]


class Queues(Protocol):
    """Every method raises `Unavailable` within a few seconds when the backend cannot be reached."""

    async def add(self, queue: str, name: str, data: JobData, options: JobOptions = JobOptions()) -> str:
        """Adds a job durably; its id (without `:`)."""
        ...

    async def consume(self, queue: str, handler: Handler, *, concurrency: int = 8) -> None:
        """Delivers jobs to `handler` until cancelled, through outages of the backend; ends running ones first."""
        ...

    async def ping(self) -> None:
        """Returns when the backend answers."""
        ...

    async def close(self) -> None:
        """Ends every connection."""
        ...
