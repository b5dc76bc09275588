"""A daemon whose engines are containers of busybox, as tests of faults need it, and its controller's end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from tests.daemon_support import QUICK, TOKEN, Controller, TinyEngine, order, running, until
from tests.engines import images
from tests.engines.dockerd import Dockerd

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.base import Address, EnginePlan, Listen, Ports
from aiwm.daemon.launchers.docker import DockerLauncher, DockerSettings
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.daemon.launchers.several import SeveralLaunchers
from aiwm.kit.settings import Settings
from aiwm.protocol import node_channel as channel
from aiwm.protocol.node_channel import DeployCommand
from aiwm.protocol.states import EngineName

Message = dict[str, Any]


class BoxEngine(TinyEngine):
    """A busybox container that does what the order's first argument says, `serve` without any."""

    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        workspace.mkdir(exist_ok=True)
        return EnginePlan(
            argv=tuple(order.engine_args) or ("serve",),
            environment={**order.environment_variables, "PORT": str(ports.http)},
            ready=(f"http://{address.local}:{ports.http}/health",),
            image=order.image or images.BUSYBOX,
            listens=(Listen(ports.http, abroad=True),),
        )


def box_launcher(
    docker_host: str, engine: BoxEngine | None = None, allowed: Sequence[str] = ("lab/*",)
) -> SeveralLaunchers:
    engines = {EngineName.CUSTOM: engine or BoxEngine()}
    docker = DockerLauncher(engines, DockerSettings(host=docker_host, allowed=allowed))
    return SeveralLaunchers(ProcessLauncher({}), docker)


@contextlib.asynccontextmanager
async def box_node(
    one: Controller,
    docker: Dockerd,
    data_dir: Path,
    *,
    engine: BoxEngine | None = None,
    allowed: Sequence[str] = ("lab/*",),
    **given: Any,
) -> AsyncIterator[Daemon]:
    """Runs until the end; its containers stay."""
    settings = Settings(data_dir=data_dir, controller_url=one.url, node_token=TOKEN)
    launcher = box_launcher(docker.environment["DOCKER_HOST"], engine, allowed)
    async with running(Daemon(settings, launcher=launcher, policy=QUICK, **given)) as daemon:
        yield daemon


async def deploy(one: Controller, *arguments: str, **changes: Any) -> Message:
    """The result of deploying `replica-1`, at the latest node to register."""
    await until(lambda: one.of(channel.NODE_REGISTER))
    wanted = order(**{"engine": EngineName.CUSTOM, "engine_args": list(arguments), "image": images.BUSYBOX, **changes})
    return await one.result(await one.command("command.deploy", wanted.to_wire()), 30)


async def served(one: Controller, *arguments: str, **changes: Any) -> None:
    result = await deploy(one, *arguments, **changes)
    assert result["status"] == "success", result


async def stop(one: Controller, grace: float = 2) -> Message:
    return await one.result(await one.command("command.stop", {"deploymentId": "deploy-1", "graceSeconds": grace}), 30)


def last(one: Controller) -> Message:
    """The latest status that the node reported of `replica-1`."""
    found: Message = one.of(channel.DEPLOYMENT_STATUS)[-1]["data"]
    return found


def is_running(one: Controller) -> bool:
    """Whether the replica runs, by the node's latest status or by what it said of it when it came."""
    reported = [each["state"] for each in one.of(channel.NODE_REGISTER)[-1]["data"]["replicas"]]
    return last(one)["state"] == "running" or reported == ["running"]


def said(one: Controller, words: str) -> list[Message]:
    """The reports whose message holds `words`."""
    reports = [each["data"] for each in one.of(channel.DEPLOYMENT_STATUS)]
    return [each for each in reports if words in (each.get("message") or "")]


async def called(docker: Dockerd, method: str, route: str, **given: Any) -> Any:
    """Docker's answer, without holding up the daemon that runs in this loop."""
    return await asyncio.to_thread(docker.call, method, route, **given)
