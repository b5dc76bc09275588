"""What every test must leave behind: no unexpected error in the log, no task, no child process."""

import asyncio
import inspect
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest
import pytest_asyncio
from hypothesis import settings

# A busy machine is no finding: how long an example takes is not judged.
settings.register_profile("aiwm", deadline=None)
settings.load_profile("aiwm")

SHARED_SERVERS = pytest.StashKey[set[int]]()
"""Pids of servers whose fixture outlives a test: `request.session.stash[SHARED_SERVERS].add(pid)`."""

_CHILD_GRACE_SECONDS = 2.0


@pytest.fixture(autouse=True)
def no_unexpected_errors(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test that logged at ERROR or above, unless it is marked `expects_errors`."""
    yield
    if request.node.get_closest_marker("expects_errors") is not None:
        return
    records = [record for phase in ("setup", "call") for record in caplog.get_records(phase)]
    lines = [f"{record.name}: {record.getMessage()}" for record in records if record.levelno >= logging.ERROR]
    if lines:
        pytest.fail("unexpected errors in the log:\n" + "\n".join(lines))


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _still_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(autouse=True)
def no_leaked_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test, and kills what it left, when children of its own are still running soon after its end.

    Servers that a wider-scoped fixture started during the test are that fixture's to end.
    """
    shared: set[int] = request.session.stash.setdefault(SHARED_SERVERS, set())
    before = _children()
    yield
    deadline = time.monotonic() + _CHILD_GRACE_SECONDS
    while left := [each for each in _children() - before if each.pid not in shared and _still_running(each)]:
        if time.monotonic() > deadline:
            names = [f"{each.pid} {' '.join(each.cmdline())[:120]}" for each in left]
            for each in left:
                each.kill()
            pytest.fail("child processes left behind:\n" + "\n".join(names))
        time.sleep(0.02)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs a server when only embedded parts are asked for; async tests answer for their tasks."""
    if os.environ.get("AIWM_TEST_EMBEDDED_ONLY"):
        left_out = [item for item in items if _needs_server(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        # First in the list, so that it looks last.
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            item.fixturenames.insert(0, "no_leaked_tasks")


def _needs_server(item: pytest.Item) -> bool:
    """Whether it runs a contract over an implementation that no wheel brings along."""
    return bool({"mongodb", "s3"} & set(re.split(r"[\[\]_-]", item.name)))


@pytest_asyncio.fixture
async def no_leaked_tasks(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fails an async test that left a task running on its loop."""
    before = asyncio.all_tasks()
    yield
    for _ in range(10):
        left = [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task() and not task.done()]
        if not left:
            return
        await asyncio.sleep(0.01)
    pytest.fail("tasks left behind: " + ", ".join(task.get_name() for task in left))
