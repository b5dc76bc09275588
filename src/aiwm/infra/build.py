"""Opens everything a process stands on, in one async context, and closes it again in reverse order."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiwm.infra.bus.open import open_bus
from aiwm.infra.bus.port import Bus
from aiwm.infra.jwks import ExternalTokens, open_external
from aiwm.infra.key_ring import open_keys
from aiwm.infra.objects.open import open_objects
from aiwm.infra.objects.port import Objects
from aiwm.infra.objects.tickets import BlobTickets
from aiwm.infra.queue.open import open_queues
from aiwm.infra.queue.port import Queues
from aiwm.infra.store.identity import installation_name
from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Store
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import Clock, SystemClock
from aiwm.kit.settings import Settings, SettingsError


@dataclass(frozen=True, slots=True)
class Infra:
    """What nouns are built from."""

    settings: Settings
    clock: Clock
    store: Store
    queues: Queues
    bus: Bus
    objects: Objects
    tickets: BlobTickets
    tokens: Tokens
    external: ExternalTokens | None = None


@asynccontextmanager
async def open_infra(settings: Settings) -> AsyncIterator[Infra]:
    """Raises `SettingsError` naming what is not set, `Unavailable` when a backend cannot be reached."""
    for name in ("store_url", "redis_url", "objects_url"):
        if not getattr(settings, name):
            raise SettingsError(f"AIWM_{name.upper()} is not set; separate processes take only what settings name")
    clock = SystemClock()
    keys = open_keys(settings.jwt_secret, settings.jwt_secret_file, clock)
    external, tickets = open_external(settings, clock), BlobTickets(keys, clock)
    async with AsyncExitStack() as stack:
        store = await open_store(settings.store_url)
        stack.push_async_callback(store.close)
        queues = await open_queues(settings.redis_url)
        stack.push_async_callback(queues.close)
        bus = open_bus(settings.redis_url, await installation_name(store))
        stack.push_async_callback(bus.close)
        objects = await open_objects(
            settings.objects_url,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            public_base=settings.own_url,
            tickets=tickets,
        )
        stack.push_async_callback(objects.close)
        yield Infra(settings, clock, store, queues, bus, objects, tickets, Tokens(keys, clock), external)
