"""Several controllers of one installation in this process, what stands before them, and a bus that fails them."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from aiohttp import web

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.base import Address, EnginePlan, Ports
from aiwm.daemon.launchers.fake import FakeEngine, FakeLauncher
from aiwm.daemon.launchers.port import NO_LIMITS, Room, Running
from aiwm.infra.bus.memory import Exchange, MemoryBus
from aiwm.infra.bus.port import Hear, Message
from aiwm.protocol.errors import Unavailable
from aiwm.protocol.node_channel import DeployCommand, LogsResult
from aiwm.protocol.states import EngineName
from aiwm.testing.world import World, open_world


class FailingBus(MemoryBus):
    """Loses, doubles and delays messages with a probability each; can be cut, after which nothing goes in or out.

    While it is `lavish`, whoever wants a lease gets it.
    """

    def __init__(self, exchange: Exchange, *, chance: float = 0.0, seed: int = 0) -> None:
        super().__init__(exchange)
        self.lavish = False
        self.chance, self._random, self._cut = chance, random.Random(seed), asyncio.Event()
        self._late: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """For good."""
        self._cut.set()

    async def publish(self, topic: str, message: Message) -> int:
        if self._cut.is_set():
            raise Unavailable("cannot publish: cut")
        fate = self._random.random()
        if fate < self.chance / 3:
            return 1
        if fate < self.chance * 2 / 3:
            await super().publish(topic, message)
        elif fate < self.chance:
            task = asyncio.create_task(self._later(topic, message))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            return 1
        return await super().publish(topic, message)

    async def _later(self, topic: str, message: Message) -> None:
        await asyncio.sleep(self._random.uniform(0.0, 0.2))
        with contextlib.suppress(Unavailable):
            await super().publish(topic, message)

    async def listen(self, topics: Sequence[str], hear: Hear, joined: Callable[[], Awaitable[None]]) -> None:
        async def unless_cut(topic: str, message: Message) -> None:
            if not self._cut.is_set():
                await hear(topic, message)

        await super().listen(topics, unless_cut, joined)

    async def hold(self, name: str, owner: str, seconds: float) -> int | None:
        if self._cut.is_set():
            raise Unavailable("cannot hold: cut")
        if self.lavish:
            return 1
        return await super().hold(name, owner, seconds)

    async def release(self, name: str, owner: str) -> None:
        if not self._cut.is_set():
            await super().release(name, owner)

    async def close(self) -> None:
        await asyncio.gather(*self._late)
        await super().close()


class Balancer:
    """TCP to the first of `ports` that answers, in their order at that moment."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> "Balancer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.drop()

    async def drop(self) -> None:
        """Ends the connections there are."""
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        writers = [writer]
        try:
            for port in self.ports:
                with contextlib.suppress(OSError):
                    there, back = await asyncio.open_connection("127.0.0.1", port)
                    writers.append(back)
                    await self._both(reader, writer, there, back)
                    return
        except asyncio.CancelledError:
            pass
        finally:
            self._open.discard(task)
            for each in writers:
                each.transport.abort()

    async def _both(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        back: asyncio.StreamWriter,
    ) -> None:
        ways = [asyncio.create_task(_copy(reader, back)), asyncio.create_task(_copy(there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()


class _SpeakingEngine(FakeEngine):
    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        return EnginePlan(argv=(order.engine, str(ports.http)), environment={}, ready=())


class SpeakingLauncher(FakeLauncher):
    """Fake engines that answer over HTTP where they should, and have a log."""

    def __init__(self) -> None:
        super().__init__()
        self.engines = {name: _SpeakingEngine() for name in EngineName}
        self._runners: dict[Path, web.AppRunner] = {}

    async def start(self, folder: Path, plan: EnginePlan, room: Room = NO_LIMITS) -> Running:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", _answer)
        runner = self._runners[folder] = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(plan.argv[1])).start()
        return await super().start(folder, plan, room)

    async def stop(self, folder: Path, grace: float) -> None:
        runner = self._runners.pop(folder, None)
        if runner is not None:
            await runner.cleanup()
        await super().stop(folder, grace)

    async def logs(self, folder: Path, *, tail: int, offset: int | None) -> LogsResult:
        return LogsResult(text="a line\n", next_offset=7)

    async def close(self) -> None:
        for runner in self._runners.values():
            await runner.cleanup()


async def _answer(request: web.Request) -> web.Response:
    return web.Response(text="from the engine")


@dataclass
class Site:
    """One installation's controllers, which `open_site` makes."""

    folder: Path
    stack: AsyncExitStack
    exchange: Exchange = field(default_factory=Exchange)
    worlds: list[World] = field(default_factory=list)
    buses: list[FailingBus] = field(default_factory=list)
    closing: list[AsyncExitStack] = field(default_factory=list)
    launchers: dict[str, SpeakingLauncher] = field(default_factory=dict)

    async def controller(self, *, chance: float = 0.0) -> World:
        """One more."""
        own = await self.stack.enter_async_context(AsyncExitStack())
        bus = FailingBus(self.exchange, chance=chance, seed=len(self.buses))
        world = await own.enter_async_context(open_world(self.folder, store=str(self.folder / "aiwm.db"), bus=bus))
        self.worlds.append(world)
        self.buses.append(bus)
        self.closing.append(own)
        return world

    async def die(self, world: World) -> None:
        """As much like `kill -9` as one process allows: from now on it says nothing to anybody."""
        number = self.worlds.index(world)
        self.buses[number].cut()
        world.controller.channel.closing()
        await self.closing[number].aclose()

    def planning(self) -> list[World]:
        """The controllers that hold the lease."""
        return [world for world in self.worlds if world.controller.lease.held]

    async def node(self, at: World, name: str, url: str | None = None) -> str:
        """Registers a node at a controller and runs its daemon there, or at `url`; its id."""
        made = await at.call("POST", "/api/v1/nodes", json={"name": name}, expect=201)
        node_id = str(made["nodeId"])
        token = await at.call("POST", f"/api/v1/nodes/{node_id}/token", json={}, expect=200)
        launcher = self.launchers[node_id] = SpeakingLauncher()
        settings = replace(
            at.infra.settings,
            data_dir=self.folder / node_id,
            controller_url=url or at.url,
            node_token=str(token["token"]),
        )
        daemon = Daemon(settings, launcher=launcher)
        running = asyncio.create_task(daemon.run(), name=f"daemon of {node_id}")
        self.stack.push_async_callback(launcher.close)
        self.stack.push_async_callback(_ended, daemon, running)
        return node_id


async def _ended(daemon: Daemon, running: "asyncio.Task[None]") -> None:
    daemon.stop()
    await running


@asynccontextmanager
async def open_site(folder: Path) -> AsyncIterator[Site]:
    """No controller yet."""
    async with AsyncExitStack() as stack:
        yield Site(folder, stack)
