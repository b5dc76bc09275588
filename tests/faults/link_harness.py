"""A controller in this process and `aiwm node` processes that reach it through a proxy, with engines of their own.

The engine is a program that answers like Triton and does nothing: what is tested is that nobody ends it.
"""

import asyncio
import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.link_proxy import LinkProxy, link_proxy

from aiwm.daemon import keeper
from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually

_ENGINE = """#!{python} -IS
import http.server, sys
port = next(int(each.partition("=")[2]) for each in sys.argv if each.startswith("--http-port="))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


def tiny_triton(folder: Path) -> Path:
    """A program that `AIWM_TRITON_SERVER` may name: it takes Triton's flags and is ready at once."""
    binary = folder / "engine" / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True, exist_ok=True)
    binary.write_text(_ENGINE.format(python=sys.executable))
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    return binary


@dataclass
class Node:
    """An `aiwm node` process: `start` and `kill` as often as needed; its engines outlive it until `end`.

    `engine` is the program for Triton, found by the daemon itself where none is given; `prefix` comes before the
    command, as `ip netns exec NAME`.
    """

    node_id: str
    token: str
    folder: Path
    url: str
    engine: Path | None = None
    prefix: tuple[str, ...] = ()
    process: asyncio.subprocess.Process | None = None

    async def start(self, **settings: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
        environment |= {
            "AIWM_CONTROLLER_URL": self.url,
            "AIWM_NODE_TOKEN": self.token,
            "AIWM_DATA_DIR": str(self.folder),
            **({} if self.engine is None else {"AIWM_TRITON_SERVER": str(self.engine)}),
            **settings,
        }
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.prefix,
                sys.executable,
                "-m",
                "aiwm.daemon",
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        """The daemon by a signal it obeys, then each engine by its keeper's group."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(10):
                    await self.process.wait()
            except TimeoutError:
                await self.kill()
        for state in self.states():
            with contextlib.suppress(ProcessLookupError):
                os.kill(state["pid"], 9)
        await eventually(lambda: not any(_lives(state) for state in self.states()))

    def states(self) -> list[dict[str, Any]]:
        """What the keepers of this node's replicas have on disk."""
        return [json.loads(path.read_text()) for path in self.folder.glob(f"node/replicas/*/{keeper.STATE}")]

    def engines(self) -> list[tuple[int, int]]:
        """Pid and kernel start time of every engine that runs now."""
        known = [(state["pid"], state["startTime"]) for state in self.states() if "pid" in state]
        return sorted(each for each in known if keeper.start_time(each[0]) == each[1])

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()


def _lives(state: dict[str, Any]) -> bool:
    return any(
        keeper.start_time(state[pid]) == state[start]
        for pid, start in (("pid", "startTime"), ("keeperPid", "keeperStartTime"))
        if state.get(pid) and state.get(start)
    )


@asynccontextmanager
async def a_node(world: World, url: str, name: str = "gpu-1") -> AsyncIterator[Node]:
    """A registered node whose daemon dials `url`, online when this is entered."""
    made = await world.call("POST", "/api/v1/nodes", json={"name": name}, expect=201)
    node_id = str(made["nodeId"])
    token = await world.call("POST", f"/api/v1/nodes/{node_id}/token", json={}, expect=200)
    node = Node(node_id, str(token["token"]), world.folder / name, url, tiny_triton(world.folder))
    await node.start()
    try:
        await eventually(lambda: is_status(world, node_id, "online"), within=20)
        yield node
    finally:
        await node.end()


@dataclass
class Linked:
    """A controller, a proxy before it, and a node beyond it that runs one engine."""

    world: World
    proxy: LinkProxy
    node: Node
    deployment_id: str
    engine: tuple[int, int]

    async def untouched(self) -> None:
        """The very same engine runs, and the controller counts no restart and wants nothing else."""
        await eventually(lambda: deployment_is(self.world, self.deployment_id, "running"), within=30)
        assert self.node.engines() == [self.engine]
        (replica,) = (await deployment(self.world, self.deployment_id))["replicaStatus"]
        assert (replica["state"], replica["restarts"]) == ("running", 0)

    async def epoch(self) -> int:
        return int((await seen(self.world, self.node.node_id))["epoch"])

    async def becomes(self, status: str, within: float) -> float:
        """Seconds until the node is shown as `status`."""
        began = time.monotonic()
        await eventually(lambda: is_status(self.world, self.node.node_id, status), within=within)
        return time.monotonic() - began

    async def back(self, after: int, within: float = 30) -> float:
        """Seconds until the node is online on a connection newer than `after`."""

        async def so() -> bool:
            node = await seen(self.world, self.node.node_id)
            return bool(node["status"] == "online" and node["epoch"] > after)

        began = time.monotonic()
        await eventually(so, within=within)
        return time.monotonic() - began


@asynccontextmanager
async def linked(world: World) -> AsyncIterator[Linked]:
    """Everything up and serving."""
    async with link_proxy(world.url) as proxy, a_node(world, proxy.url) as node:
        deployment_id = await a_running_deployment(world)
        (engine,) = node.engines()
        yield Linked(world, proxy, node, deployment_id, engine)


async def a_running_deployment(world: World, name: str = "digits", **params: object) -> str:
    model_id = await ready_model(world, f"model of {name}")
    body = {"name": name, "modelId": model_id, **params}
    deployment_id = str((await world.call("POST", "/api/v1/deployments", json=body, expect=201))["deploymentId"])
    await eventually(lambda: deployment_is(world, deployment_id, "running"), within=30)
    return deployment_id


async def seen(world: World, node_id: str) -> dict[str, Any]:
    return await world.call("GET", f"/api/v1/nodes/{node_id}", expect=200)


async def is_status(world: World, node_id: str, status: str) -> bool:
    return bool((await seen(world, node_id))["status"] == status)


async def deployment(world: World, deployment_id: str) -> dict[str, Any]:
    return await world.call("GET", f"/api/v1/deployments/{deployment_id}", expect=200)


async def deployment_is(world: World, deployment_id: str, status: str) -> bool:
    return bool((await deployment(world, deployment_id))["status"] == status)
