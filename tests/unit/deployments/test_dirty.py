"""What wakes the reconciler."""

import asyncio

import pytest

from aiwm.deployments.dirty import Dirty


async def a_quiet_one() -> Dirty:
    """Nothing is marked any more."""
    dirty = Dirty(lambda: True, lambda _: None)
    assert await dirty.take(1) is None
    return dirty


async def test_what_was_marked_is_taken_once() -> None:
    dirty = await a_quiet_one()
    dirty.mark("deploy-1")
    dirty.mark_each(["deploy-1", "deploy-2"])
    assert await dirty.take(1) == {"deploy-1", "deploy-2"}


async def test_a_node_that_concerns_no_deployment_wakes_nobody() -> None:
    dirty = await a_quiet_one()
    dirty.mark_each(())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await dirty.take(60)


async def test_when_nothing_is_marked_for_long_everything_is_looked_at() -> None:
    assert await (await a_quiet_one()).take(0.01) is None
