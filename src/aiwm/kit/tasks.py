"""Background tasks that cannot die unseen: one that ends by an error takes its process down, loudly."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)


class Tasks:
    """An async context that owns background tasks and ends them all when it is left.

    `failed` is set when a task raised; the process's main loop waits for it and exits. The error itself is in `error`.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self.failed = asyncio.Event()
        self.error: BaseException | None = None

    def spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts `work` under `name`."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("background task %s failed", task.get_name(), exc_info=error)
        self.error = self.error or error
        self.failed.set()

    @contextlib.asynccontextmanager
    async def until_failure(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """Within it, a task that fails sets `stop`; its error is raised when it is left."""

        async def watch() -> None:
            await self.failed.wait()
            stop.set()

        watching = self.spawn("failure watch", watch())
        yield
        watching.cancel()
        if self.error is not None:
            raise self.error

    async def cancel(self) -> None:
        """Ends every task and waits for it."""
        while self._running:
            running = list(self._running)
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            self._running.difference_update(running)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cancel()
