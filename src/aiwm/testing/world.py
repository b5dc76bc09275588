"""A whole installation in one process: real code everywhere, a store and a queue in memory, fake engines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from aiwm.apps.controller import Controller, compose
from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.daemon.launchers.port import Launcher
from aiwm.daemon.telemetry import Telemetry
from aiwm.gateway.upstream import Upstream
from aiwm.http.serve import bind, serve
from aiwm.infra.build import Infra
from aiwm.infra.bus.memory import MemoryBus
from aiwm.infra.bus.port import Bus
from aiwm.infra.objects.local import LocalObjects
from aiwm.infra.objects.tickets import BlobTickets
from aiwm.infra.queue.memory import MemoryQueues
from aiwm.infra.store.sqlite import open_sqlite
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import SystemClock
from aiwm.kit.settings import Settings
from aiwm.kit.tasks import Tasks
from aiwm.models.jobs import ModelJobs
from aiwm.protocol.jobs import MODELS_QUEUE

ADMIN_PASSWORD = "correct horse battery"  # noqa: S105 - of worlds that live for one test
_SECRET = b"a secret of at least thirty-two bytes"
_READY_SECONDS = 10.0
_POLL_SECONDS = 0.01


async def eventually(what: Callable[[], Awaitable[bool] | bool], *, within: float = _READY_SECONDS) -> None:
    """Waits until `what` is so; `TimeoutError` after `within` seconds."""
    async with asyncio.timeout(within):
        while True:
            answer = what()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(_POLL_SECONDS)


@dataclass(slots=True)
class World:
    """One controller and one worker, serving on `url`; nodes are added by `node`."""

    infra: Infra
    controller: Controller
    url: str
    folder: Path
    http: aiohttp.ClientSession
    stack: AsyncExitStack
    launchers: dict[str, Launcher] = field(default_factory=dict)

    async def call(self, method: str, path: str, *, expect: int | None = None, **options: object) -> dict[str, object]:
        """One REST call as admin; the JSON answer, `{}` where there is none."""
        async with self.http.request(method, f"{self.url}{path}", **options) as answer:  # type: ignore[arg-type]
            body = await answer.json(content_type=None) if answer.content_length != 0 else {}
            if expect is not None and answer.status != expect:
                raise AssertionError(f"{method} {path}: {answer.status} {body}")
            return body if isinstance(body, dict) else {"data": body}

    async def node(self, name: str, launcher: Launcher | None = None, telemetry: Telemetry | None = None) -> str:
        """Registers a node, runs its daemon, and waits until it is online; its id."""
        made = await self.call("POST", "/api/v1/nodes", json={"name": name}, expect=201)
        node_id = str(made["nodeId"])
        await self.daemon(node_id, launcher, telemetry)
        return node_id

    async def daemon(
        self, node_id: str, launcher: Launcher | None = None, telemetry: Telemetry | None = None
    ) -> Daemon:
        """Runs a daemon for a registered node until the world ends, and waits until it is online."""
        token = await self.call("POST", f"/api/v1/nodes/{node_id}/token", json={}, expect=200)
        settings = replace(
            self.infra.settings,
            data_dir=self.folder / node_id,
            controller_url=self.url,
            node_token=str(token["token"]),
        )
        self.launchers[node_id] = launcher or FakeLauncher()
        daemon = Daemon(settings, launcher=self.launchers[node_id], telemetry=telemetry)
        running = asyncio.create_task(daemon.run(), name=f"daemon of {node_id}")
        self.stack.push_async_callback(_ended, daemon, running)

        async def online() -> bool:
            return (await self.call("GET", f"/api/v1/nodes/{node_id}"))["status"] == "online"

        await eventually(online)
        return daemon


async def _ended(daemon: Daemon, running: "asyncio.Task[None]") -> None:
    daemon.stop()
    await running


@asynccontextmanager
async def open_world(folder: Path, *, store: str = ":memory:", bus: Bus | None = None) -> AsyncIterator[World]:
    """An installation below `folder`, on the SQLite file `store`, with admin signed in; it ends with the context.

    Worlds that share folder, store and an exchange below their `bus` are several controllers of one installation.
    """
    async with AsyncExitStack() as stack:
        listener = bind("127.0.0.1", 0)
        port = int(listener.getsockname()[1])
        settings = Settings(data_dir=folder, port=port, admin_password=ADMIN_PASSWORD)
        infra = await _infra(stack, settings, folder, store, bus or MemoryBus())
        tasks = await stack.enter_async_context(Tasks())
        upstream = await stack.enter_async_context(Upstream(infra.clock))
        controller = compose(infra, tasks)
        stack.callback(controller.access.passwords.close)
        await controller.prepare()
        controller.background(upstream)
        jobs = ModelJobs(infra.store, infra.objects, infra.clock, controller.relay.wake, folder / "worker")
        tasks.spawn("models queue", infra.queues.consume(MODELS_QUEUE, jobs.handle))
        stop = asyncio.Event()
        application = controller.application(upstream)
        serving = asyncio.create_task(
            serve(application, host="127.0.0.1", port=port, stop=stop, listener=listener), name="server"
        )
        stack.push_async_callback(_served, stop, serving)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        world = World(infra, controller, settings.own_url, folder, http, stack)
        await _sign_in(world)
        yield world


async def _served(stop: asyncio.Event, serving: "asyncio.Task[None]") -> None:
    stop.set()
    await serving


async def _infra(stack: AsyncExitStack, settings: Settings, folder: Path, store_path: str, bus: Bus) -> Infra:
    clock = SystemClock()
    store = await open_sqlite(store_path)
    stack.push_async_callback(store.close)
    queues = MemoryQueues()
    stack.push_async_callback(queues.close)
    stack.push_async_callback(bus.close)
    objects = LocalObjects(folder / "objects", settings.own_url, _SECRET)
    tickets, tokens = BlobTickets([_SECRET], clock), Tokens((_SECRET,), clock)
    return Infra(settings, clock, store, queues, bus, objects, tickets, tokens)


async def _sign_in(world: World) -> None:
    async def live() -> bool:
        with suppress(aiohttp.ClientError):
            await world.call("GET", "/health/live", expect=200)
            return True
        return False

    await eventually(live)
    body = {"username": "admin", "password": ADMIN_PASSWORD}
    pair = await world.call("POST", "/api/v1/auth/login", json=body, expect=200)
    world.http.headers["Authorization"] = f"Bearer {pair['accessToken']}"
