"""What tests of the daemon share: a controller that speaks the node channel, an engine that is a tiny HTTP server."""

import asyncio
import hashlib
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import socketio
from aiohttp import web

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.base import Address, EnginePlan, Ports, Trial, Verdict
from aiwm.daemon.replicas import Policy
from aiwm.kit.clock import SystemClock, iso
from aiwm.kit.ids import new_id
from aiwm.kit.settings import Settings
from aiwm.protocol import node_channel as channel
from aiwm.protocol.node_channel import Artifact, ArtifactFile, DeployCommand, EngineNumbers
from aiwm.protocol.states import EngineName

TOKEN = "node-token-of-the-test"
QUICK = Policy(first_restart=0.1, longest_restart=0.2, watch_interval=0.02, probe_interval=0.1, grace=5)

Message = dict[str, Any]


async def until(fact: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `fact` returns once it is true."""
    async with asyncio.timeout(seconds):
        while not (found := fact()):  # noqa: ASYNC110 - facts of other processes raise no events
            await asyncio.sleep(0.01)
    return found


class Controller:
    """The controller's end, as the contract has it. `refusal` refuses connects; `files` are served below /blobs."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.connects = 0
        self.instances: list[str] = []
        self.refusal: str | None = None
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.heartbeat_ms, self.metrics_ms = 30_000, 10_000
        self.hold: asyncio.Event | None = None
        self.sid: str | None = None
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listens; after `close`, again on the same port."""
        self._server = socketio.AsyncServer(async_mode="aiohttp", ping_interval=3, ping_timeout=3)
        self._server.on("connect", self._connect, namespace=channel.NAMESPACE)
        self._server.on("*", self._received, namespace=channel.NAMESPACE)
        app = web.Application()
        app.router.add_get("/blobs/{name:.*}", self._blob)
        self._server.attach(app)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Every connection is cut."""
        if self._runner is not None:
            await self._server.shutdown()
            await self._runner.cleanup()
            self._runner, self.sid = None, None
        # The server library leaves its ping timers behind, asleep.
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__qualname__", "").endswith("_send_ping"):
                task.cancel()

    async def _blob(self, request: web.Request) -> web.Response:
        name = request.raw_path.partition("?")[2] or request.match_info["name"]
        self.fetched.append(name)
        if self.hold is not None:
            await self.hold.wait()
        return web.Response(body=self.files[name]) if name in self.files else web.Response(status=404)

    async def _connect(self, sid: str, environ: object, auth: dict[str, str]) -> None:
        if self.refusal is not None:
            raise socketio.exceptions.ConnectionRefusedError(
                self.refusal, {"code": self.refusal, "message": "no entry"}
            )
        assert auth["token"] == TOKEN
        self.instances.append(auth["instance"])
        self.connects += 1
        self.sid = sid
        ack = {"status": "connected", "timestamp": iso(SystemClock().now()), "nodeId": "node-1"}
        self._server.start_background_task(self._welcome, sid, ack | {"controllerId": "c-1", "serverVersion": "0"})

    async def _welcome(self, sid: str, ack: Message) -> None:
        await self._server.emit(channel.CONNECTION_ACK, ack, to=sid, namespace=channel.NAMESPACE)

    async def _received(self, event: str, sid: str, body: Message) -> None:
        self.messages.append(body)
        if event == channel.NODE_REGISTER:
            ack = channel.RegisterAck(
                node_id="node-1",
                registered_at=SystemClock().now(),
                epoch=self.connects,
                controller_info=channel.ControllerInfo(
                    controller_id="c-1", heartbeat_interval=self.heartbeat_ms, metrics_interval=self.metrics_ms
                ),
            )
            await self.emit(channel.envelope(channel.REGISTER_ACK, ack, now=SystemClock().now()))

    async def emit(self, body: Message) -> None:
        await self._server.emit(body["type"], body, to=self.sid, namespace=channel.NAMESPACE)

    async def disconnect(self) -> None:
        """Ends the node's connection from this side."""
        await self._server.disconnect(self.sid, namespace=channel.NAMESPACE)

    async def command(self, type_: str, data: Message, **fields: Any) -> str:
        """Sends a command; its message id."""
        body = {"type": type_, "messageId": new_id("msg"), "timestamp": iso(SystemClock().now()), "data": data}
        body |= fields
        await self.emit(body)
        return str(body["messageId"])

    def of(self, type_: str) -> list[Message]:
        return [message for message in self.messages if message["type"] == type_]

    def results(self, message_id: str) -> list[Message]:
        return [
            message["data"]
            for message in self.of(channel.COMMAND_RESULT)
            if message["data"]["originalMessageId"] == message_id
        ]

    async def result(self, message_id: str, seconds: float = 10.0) -> Message:
        """The command's result."""
        found: list[Message] = await until(lambda: self.results(message_id), seconds)
        return found[0]

    def states(self, replica_id: str) -> list[str]:
        """The states a replica was reported in, in order."""
        reports = [message["data"] for message in self.of(channel.DEPLOYMENT_STATUS)]
        return [report["state"] for report in reports if report["replicaId"] == replica_id]

    def add_files(self, files: dict[str, bytes]) -> Artifact:
        """Serves `files` as a model."""
        listed = []
        for path, content in files.items():
            self.files[path] = content
            digest = hashlib.sha256(content).hexdigest()
            listed.append(ArtifactFile(path=path, size=len(content), sha256=digest, urls=[f"/blobs/{path}"]))
        total = hashlib.sha256("".join(f"{file.path}{file.sha256}" for file in listed).encode()).hexdigest()
        return Artifact(model_id="model-1", digest=total, name="model", framework="triton", files=listed)


@asynccontextmanager
async def controller() -> AsyncIterator[Controller]:
    """A controller that listens, until the end."""
    one = Controller()
    await one.start()
    try:
        yield one
    finally:
        await one.close()


def settings_for(one: Controller, data_dir: Path) -> Settings:
    return Settings(data_dir=data_dir, controller_url=one.url, node_token=TOKEN)


@asynccontextmanager
async def running(daemon: Daemon) -> AsyncIterator[Daemon]:
    """The daemon, running until the end."""
    task = asyncio.create_task(daemon.run())
    try:
        yield daemon
    finally:
        daemon.stop()
        async with asyncio.timeout(15):
            await task


def order(artifact: Artifact | None = None, **changes: Any) -> DeployCommand:
    """A deploy of `replica-1`, generation 1, unless `changes` says otherwise."""
    fields: dict[str, Any] = {
        "deployment_id": "deploy-1",
        "replica_id": "replica-1",
        "model_id": "model-1",
        "container_id": "engine-001",
        "deployment_name": "demo",
        "engine": EngineName.TRITON,
        "generation": 1,
        "artifact": artifact
        or Artifact(model_id="model-1", digest="0" * 64, name="model", framework="triton", files=[]),
    }
    return DeployCommand.model_validate(fields | changes)


SERVER = textwrap.dedent("""
    import http.server, os, sys
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
        def log_message(self, *args): pass
    print("hello from the engine", flush=True)
    for line in sys.argv[2:]:
        exec(line)
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
""")


class TinyEngine:
    """A Python HTTP server as an engine; `extra` is run before it listens."""

    def __init__(self, *extra: str) -> None:
        self.extra = extra

    def version(self) -> str | None:
        return None

    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        return EnginePlan(
            argv=(sys.executable, "-I", "-S", "-c", SERVER, str(ports.http), *self.extra),
            environment={"PATH": "/usr/bin:/bin", **order.environment_variables},
            ready=(f"http://{address.local}:{ports.http}/ready",),
        )

    async def try_out(self, order: DeployCommand, base: str) -> Trial:
        return Trial(Verdict.UNTRIED)

    def numbers(self, order: DeployCommand, page: str) -> EngineNumbers:
        return EngineNumbers()

    def explain(self, log: str) -> str | None:
        lines = [line for line in log.splitlines() if "Error" in line]
        return lines[-1] if lines else None

    def port_taken(self, log: str) -> bool:
        return "Address already in use" in log
