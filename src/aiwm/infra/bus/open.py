"""Opens the bus that a setting names."""

from aiwm.infra.bus.memory import MemoryBus
from aiwm.infra.bus.port import Bus
from aiwm.infra.bus.redis import RedisBus
from aiwm.kit.settings import SettingsError


def open_bus(url: str, space: str) -> Bus:
    """`memory://`, or Redis by `redis://`, `rediss://` or `unix://`; connects when first used. `SettingsError`."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        return MemoryBus()
    if scheme in ("redis", "rediss", "unix"):
        try:
            return RedisBus(url, space)
        except ValueError as error:
            raise SettingsError(f"cannot use AIWM_REDIS_URL: {error}") from error
    raise SettingsError("cannot use AIWM_REDIS_URL: it must begin with redis://, rediss:// or unix://")
