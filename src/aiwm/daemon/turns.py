"""Turns at the GPUs of a node: engines that share one measure what is free there as they start, so they start apart."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiwm.protocol.node_channel import DeployCommand


class Turns:
    """One start at a time on each GPU that is shared; whoever has its GPUs alone waits for nobody."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def taken(self, order: DeployCommand) -> AsyncIterator[None]:
        """Within it, the order's engine is the only one that starts on the GPUs that it shares."""
        shared = sorted(order.gpu_device_ids) if order.resources.gpu_memory else []
        async with contextlib.AsyncExitStack() as turns:
            # In one order for all, so that no two wait for each other.
            for device in shared:
                await turns.enter_async_context(self._locks.setdefault(device, asyncio.Lock()))
            yield
