"""The launchers that the contract suite runs over, each with engines of every behaviour the suite asks for."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil
from tests import servers
from tests.engines import images
from tests.engines.dockerd import Dockerd

from aiwm.daemon.engines.base import EnginePlan, Listen
from aiwm.daemon.launchers.docker import DockerLauncher, DockerSettings
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.daemon.launchers.identity import MARK
from aiwm.daemon.launchers.port import Launcher
from aiwm.daemon.launchers.process import ProcessLauncher

_SERVE = """
import http.server, os, signal, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *args): pass
print("it is loading", flush=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else lambda *_: os._exit(0))
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"""
_PROGRAMS = {"serve": _SERVE, "stubborn": _SERVE, "finish": "", "fail": "raise SystemExit('cannot load the model')"}


class Kind(Protocol):
    """One launcher: its plans, and what is left of its engines."""

    def plan(self, behaviour: str) -> EnginePlan:
        """`serve`, `stubborn` (ignores SIGTERM), `finish` (exits 0 at once), `fail` (1, with words)."""
        ...

    def opened(self) -> contextlib.AbstractAsyncContextManager[Launcher]:
        """A launcher as a daemon has it; another one each time."""
        ...

    def running(self, folder: Path) -> int:
        """How many engines of that folder run, by what the machine says."""
        ...


class ProcessKind:
    def plan(self, behaviour: str) -> EnginePlan:
        port = servers.free_port()
        argv = (sys.executable, "-I", "-S", "-c", _PROGRAMS[behaviour], behaviour)
        return EnginePlan(argv, {"PORT": str(port)}, (f"http://127.0.0.1:{port}/health",))

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Launcher]:
        yield ProcessLauncher({})

    def running(self, folder: Path) -> int:
        found = 0
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                found += each.environ().get(MARK) == str(folder)
        return found


@dataclass
class DockerKind:
    docker: Dockerd

    def plan(self, behaviour: str) -> EnginePlan:
        port = servers.free_port()
        return EnginePlan(
            argv=("sh", "-c", f"echo it is loading; exec engine {behaviour}"),
            environment={"PORT": str(port)},
            ready=(f"http://127.0.0.1:{port}/health",),
            image=images.BUSYBOX,
            listens=(Listen(port, abroad=True),),
        )

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Launcher]:
        async with docker_launcher(self.docker) as launcher:
            yield launcher

    def running(self, folder: Path) -> int:
        found = self.docker.call("GET", "/containers/json")
        return sum(each["Labels"].get("ai.aiwm.folder") == str(folder) for each in found)


@dataclass
class FakeKind:
    """One fake for all: it is what runs, too."""

    launcher: FakeLauncher = field(default_factory=FakeLauncher)

    def plan(self, behaviour: str) -> EnginePlan:
        return EnginePlan((behaviour,), {}, ())

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Launcher]:
        yield self.launcher

    def running(self, folder: Path) -> int:
        return int(folder in self.launcher.seen)


@contextlib.asynccontextmanager
async def docker_launcher(docker: Dockerd, **settings: object) -> AsyncIterator[DockerLauncher]:
    """A launcher that follows what happens, until the end; its containers stay."""
    chosen = {"host": docker.environment["DOCKER_HOST"], "allowed": ["lab/*"], **settings}
    launcher = DockerLauncher({}, DockerSettings(**chosen))  # type: ignore[arg-type]
    await launcher.open()
    following = asyncio.create_task(launcher.follow())
    try:
        yield launcher
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        await launcher.close()
