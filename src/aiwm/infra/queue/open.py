"""Opens the queues that a setting names."""

from aiwm.infra.queue.bullmq import BullQueues
from aiwm.infra.queue.memory import MemoryQueues
from aiwm.infra.queue.port import Queues
from aiwm.kit.settings import SettingsError


async def open_queues(url: str) -> Queues:
    """`memory://`, or Redis by `redis://`, `rediss://` or `unix://`; connects when first used. `SettingsError`."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        return MemoryQueues()
    if scheme in ("redis", "rediss", "unix"):
        try:
            return BullQueues(url)
        except ValueError as error:
            raise SettingsError(f"cannot use AIWM_REDIS_URL: {error}") from error
    raise SettingsError("cannot use AIWM_REDIS_URL: it must begin with redis://, rediss:// or unix://")
