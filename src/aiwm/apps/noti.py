"""NOTI: the live hub and the inboxes, fed by the `noti` queue."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from aiwm.access.audit.log import AuditLog
from aiwm.access.build import Access, compose_access
from aiwm.access.guard import Guard
from aiwm.access.service import Users
from aiwm.access.watch import Watch
from aiwm.http.app import create_app
from aiwm.http.idempotency import IdempotencyKeys
from aiwm.http.serve import serve, warn_plain
from aiwm.http.sockets import mount, socket_server
from aiwm.http.tls import certificate
from aiwm.infra.build import open_infra
from aiwm.infra.jwks import ExternalTokens
from aiwm.infra.queue.port import Queues
from aiwm.infra.store.port import Store
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import Clock
from aiwm.kit.settings import Settings
from aiwm.kit.tasks import Tasks
from aiwm.notifications.hub import NotificationHub
from aiwm.notifications.routes import notifications_router
from aiwm.notifications.service import Delivery
from aiwm.notifications.streams import Streams
from aiwm.notifications.topics import Topics
from aiwm.protocol.notifications import QUEUE

PING_INTERVAL_SECONDS = 20.0
PING_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Noti:
    """The parts of one NOTI, wired together; nothing runs until `consume` and a server do."""

    settings: Settings
    store: Store
    queues: Queues
    clock: Clock
    access: Access
    users: Users
    guard: Guard
    streams: Streams
    hub: NotificationHub
    delivery: Delivery
    keys: IdempotencyKeys
    audit: AuditLog

    async def prepare(self) -> None:
        """Makes the indexes."""
        for part in (self.access, self.streams, self.keys, self.audit):
            await part.prepare()

    def application(self) -> Any:
        """The ASGI application: the inbox over REST, with the hub beside it."""
        app = create_app(
            title="AIWM NOTI",
            routers=(notifications_router(self.streams, self.queues, self.guard, self.clock),),
            ready={"store": self.store.ping, "redis": self.queues.ping},
            guard=self.guard,
            settings=self.settings,
            idempotency=self.keys,
            recorder=self.audit,
        )
        sio = socket_server(
            settings=self.settings,
            ping_interval=PING_INTERVAL_SECONDS,
            ping_timeout=PING_TIMEOUT_SECONDS,
            recorder=self.audit,
        )
        sio.register_namespace(self.hub)
        return mount(app, sio)

    async def consume(self) -> None:
        """Tells what comes through the queue, one job after the other so that streams keep its order."""
        await self.queues.consume(QUEUE, self.delivery.handle, concurrency=1)


def compose(
    settings: Settings,
    store: Store,
    queues: Queues,
    tokens: Tokens,
    clock: Clock,
    external: ExternalTokens | None = None,
) -> Noti:
    """Wires a NOTI."""
    access = compose_access(store, tokens, clock, external)
    store, users, guard = access.store, access.users, access.guard
    streams = Streams(store, clock)
    hub = NotificationHub(guard, streams, Topics(store), Watch(store), clock)
    return Noti(
        settings=settings,
        store=store,
        queues=queues,
        clock=clock,
        access=access,
        users=users,
        guard=guard,
        streams=streams,
        hub=hub,
        delivery=Delivery(streams, users, hub.tell, clock),
        keys=IdempotencyKeys(store, clock),
        audit=AuditLog(store, clock),
    )


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Runs NOTI until `stop` is set."""
    tls = certificate(settings)
    warn_plain(settings)
    async with AsyncExitStack() as stack:
        infra = await stack.enter_async_context(open_infra(settings))
        tasks = await stack.enter_async_context(Tasks())
        noti = compose(settings, infra.store, infra.queues, infra.tokens, infra.clock, infra.external)
        stack.callback(noti.access.passwords.close)
        await noti.prepare()
        tasks.spawn("noti queue", noti.consume())
        tasks.spawn("open connections", noti.hub.watch())
        async with tasks.until_failure(stop):
            await serve(noti.application(), host=settings.host, port=settings.noti_port, stop=stop, tls=tls)
