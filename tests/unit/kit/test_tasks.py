import asyncio

import pytest

from aiwm.kit.tasks import Tasks


async def test_leaving_does_not_wait_for_a_task_that_has_just_ended() -> None:
    async with asyncio.timeout(5), Tasks() as tasks:
        done = asyncio.Event()
        tasks.spawn("waits", done.wait())
        await asyncio.sleep(0)
        done.set()
        await asyncio.sleep(0)


@pytest.mark.expects_errors
async def test_a_task_that_dies_is_seen() -> None:
    async def die() -> None:
        raise ValueError("broken")

    async with asyncio.timeout(5), Tasks() as tasks:
        tasks.spawn("dies", die())
        await tasks.failed.wait()
        assert isinstance(tasks.error, ValueError)
