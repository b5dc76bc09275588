"""Two `aiwm controller` processes on one SQLite file and a real Redis, behind a balancer; each is killed in turn, and
Redis too, with an engine running on a node of theirs: it is never started again."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from tests.faults.link_harness import Node, tiny_triton
from tests.faults.test_queue_outages import Redis
from tests.peer_support import Balancer
from tests.servers import free_port, stop

from aiwm.protocol.errors import AiwmError
from aiwm.sdk.client import Client
from aiwm.testing.road import TINY_MODEL
from aiwm.testing.world import eventually

PASSWORD = "a password for this test"
KEY = "0123456789abcdef0123456789abcdef"


@dataclass
class Installation:
    """What the processes share, and the processes, by name; `ports` are the controllers'."""

    folder: Path
    redis: Redis
    stack: ExitStack
    public: str = ""
    ports: dict[str, int] = field(default_factory=lambda: {"one": free_port(), "two": free_port()})
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """A controller of `ports`, or the worker."""
        environment = {each: value for each, value in os.environ.items() if not each.startswith("AIWM_")} | {
            "AIWM_STORE_URL": f"sqlite:///{self.folder}/aiwm.db",
            "AIWM_REDIS_URL": self.redis.url,
            "AIWM_OBJECTS_URL": f"file://{self.folder}/objects",
            "AIWM_JWT_SECRET": KEY,
            "AIWM_ENCRYPTION_KEY": KEY,
            "AIWM_ADMIN_PASSWORD": PASSWORD,
            "AIWM_DATA_DIR": str(self.folder / "data"),
            "AIWM_PUBLIC_URL": self.public,
            "AIWM_PORT": str(self.ports.get(name, free_port())),
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "aiwm", "controller" if name in self.ports else name],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes[name] = process
        self.stack.callback(_end, process)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    async def ready(self, name: str) -> None:
        async def so() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                async with aiohttp.ClientSession() as http, http.get(f"{self.url(name)}/health/ready") as answer:
                    return answer.status == 200
            return False

        await eventually(so, within=60)

    @contextlib.asynccontextmanager
    async def client(self, name: str) -> AsyncIterator[Client]:
        async with Client(self.url(name)) as client:
            await client.login("admin", PASSWORD)
            yield client

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.returncode is None:
        process.terminate()
        assert process.wait(10) == 0


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    redis = Redis(tmp_path)
    try:
        with ExitStack() as stack:
            yield Installation(tmp_path, redis, stack)
    finally:
        stop(redis.process)


@dataclass
class Served:
    """A node that runs one engine; its connection is held by `two`, and `one` plans."""

    installation: Installation
    balancer: Balancer
    node: Node
    model_id: str
    deployment_id: str
    engine: tuple[int, int]

    async def untouched(self, *names: str) -> None:
        """Every named controller sees it running and reaches it, and it is the same engine."""
        for name in names:
            async with self.installation.client(name) as client:
                await eventually(lambda client=client: self._reached(client), within=30)  # type: ignore[misc]
                (replica,) = await client.deployments.replicas(self.deployment_id)
                assert (replica.state, replica.restarts) == ("running", 0)
        assert self.node.engines() == [self.engine]

    async def _reached(self, client: Client) -> bool:
        try:
            await client.deployments.wait(self.deployment_id, timeout=0.1)
            async for _ in client.deployments.logs(self.deployment_id):
                pass
        except AiwmError:
            return False
        return True

    async def another(self, name: str, within: float) -> None:
        """A deployment made at `name` runs within so many seconds, and is stopped and deleted."""
        async with self.installation.client(name) as client:
            params = {"name": "another", "modelId": self.model_id}
            made = await client.deployments.create(params)
            await client.deployments.wait(made.deployment_id, timeout=within)
            await client.deployments.stop(made.deployment_id)
            await client.deployments.wait(made.deployment_id, "stopped", timeout=20)
            await client.deployments.delete(made.deployment_id)


@pytest_asyncio.fixture
async def served(installation: Installation) -> AsyncIterator[Served]:
    folder, ports = installation.folder, installation.ports
    async with Balancer(ports["two"], ports["one"]) as balancer:
        installation.public = balancer.url
        installation.start("one")
        await installation.ready("one")
        await eventually(lambda: "the lease was taken" in installation.log("one"))
        for name in ("two", "worker"):
            installation.start(name)
        await installation.ready("two")
        async with installation.client("one") as client:
            source = folder / "model"
            for path, content in TINY_MODEL.items():
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                (source / path).write_bytes(content)
            model = await client.models.create({"name": "digits", "framework": "triton"})
            await client.models.upload(model.model_id, source)
            await client.models.wait_ready(model.model_id, timeout=60)
            made = await client.nodes.create({"name": "gpu-1"})
            token = (await client.nodes.token(made.node_id)).token
            node = Node(made.node_id, token, folder / "gpu-1", balancer.url, tiny_triton(folder))
            await node.start()
            try:
                await client.nodes.wait_online(made.node_id)
                wish = await client.deployments.create({"name": "digits", "modelId": model.model_id})
                await client.deployments.wait(wish.deployment_id, timeout=60)
                (engine,) = node.engines()
                yield Served(installation, balancer, node, model.model_id, wish.deployment_id, engine)
            finally:
                await node.end()


async def test_controllers_die_one_after_the_other_and_no_engine_is_started_again(served: Served) -> None:
    installation = served.installation
    await served.untouched("one", "two")

    installation.kill("two")
    await served.untouched("one")
    await served.another("one", within=20)
    installation.start("two")
    await installation.ready("two")
    await served.untouched("one", "two")

    # Now `one` plans and holds the node.
    installation.kill("one")
    await served.another("two", within=30)
    await served.untouched("two")
    installation.start("one")
    await installation.ready("one")
    await served.untouched("one", "two")
    print("engine restarts: 0")


async def test_redis_dies_and_comes_back_and_no_engine_is_started_again(served: Served) -> None:
    served.installation.redis.kill()
    # The one that planned goes on, and reaches what it holds; the node's connection is the other's.
    await eventually(lambda: "not told for now" in served.installation.log("one"), within=10)
    served.balancer.ports.reverse()
    await served.balancer.drop()
    await served.another("one", within=40)
    await asyncio.to_thread(served.installation.redis.back)
    await served.untouched("one", "two")
    await served.another("two", within=20)
    for name in ("one", "two"):
        assert '"level": "ERROR"' not in served.installation.log(name)
    print("engine restarts: 0")
