"""Real Triton under `aiwm up`, and everything around it killed: nothing acknowledged is lost, the engine goes on."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.up_support import NAMES, Up, until

from aiwm.assets import MODEL, digits
from aiwm.daemon.engines.triton_install import find_binary
from aiwm.protocol.errors import Unavailable
from aiwm.protocol.resources.deployments import Deployment
from aiwm.protocol.states import DeploymentStatus
from aiwm.sdk.client import Client
from aiwm.sdk.inference import Tensor


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    if find_binary("") is None:
        pytest.skip("no tritonserver: pip install nvidia-pytriton==0.7.0")
    one = Up(tmp_path)
    yield one
    if one.process is not None and one.process.poll() is None:
        one.stop()


def client(up: Up) -> Client:
    return Client(f"http://127.0.0.1:{up.port}", noti_url=f"http://127.0.0.1:{up.noti_port}")


async def signed_in(up: Up, one: Client) -> None:
    await one.login("admin", (up.folder / "admin-password").read_text().strip())


async def deployed(up: Up) -> Deployment:
    async with client(up) as one:
        await signed_in(up, one)
        model = await one.models.create({"name": "digits", "framework": "triton"})
        await one.models.upload(model.model_id, MODEL)
        await one.models.wait_ready(model.model_id)
        made = await one.deployments.create({"name": "digits", "modelId": model.model_id})
        return await one.deployments.wait(made.deployment_id, timeout=60)


async def runs(up: Up, deployment_id: str) -> Deployment:
    async with client(up) as one:
        await signed_in(up, one)
        return await one.deployments.wait(deployment_id, DeploymentStatus.RUNNING, timeout=60)


def serves(up: Up) -> bool:
    """Whether the engine answers, and rightly; a controller that has just started may know it only from before."""
    try:
        return asyncio.run(guess(up))
    except Unavailable:
        return False


async def guess(up: Up) -> bool:
    row = digits()[0]
    async with client(up) as one:
        await signed_in(up, one)
        pixels = Tensor(name="PIXELS", shape=[1, 64], datatype="FP32", data=list(row.pixels))
        answer = await one.inference.infer("digits", [pixels])
        return bool(answer.output("LABEL").data[0] == row.label)


def engines(up: Up) -> dict[int, float]:
    """Pids and start times of the Triton servers that run from this installation's folder."""
    found = {}
    for process in psutil.process_iter(["pid", "name", "cmdline", "create_time"]):
        if process.info["name"] == "tritonserver" and str(up.folder) in " ".join(process.info["cmdline"] or ()):
            found[process.info["pid"]] = process.info["create_time"]
    return found


def test_engines_go_on_whatever_else_is_killed_and_end_with_up(up: Up) -> None:
    up.start()
    deployment = asyncio.run(deployed(up))
    running = engines(up)
    assert len(running) == 1
    for name in NAMES:
        before = up.parts()[name]
        os.kill(before.pid, signal.SIGKILL)
        until(lambda name=name, before=before: up.parts().get(name) not in (None, before))  # type: ignore[misc]
        until(up.ready)
        until(lambda: [each for each in up.nodes() if each["status"] == "online"], 90)
        seen = asyncio.run(runs(up, deployment.deployment_id))
        assert engines(up) == running, f"the engine is another one after {name} was killed"
        assert seen.replica_status[0].restarts == 0
        until(lambda: serves(up))
    assert up.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not engines(up))


def test_a_deployment_is_brought_back_after_up_itself_was_killed(up: Up) -> None:
    up.start()
    deployment = asyncio.run(deployed(up))
    up.stop(signal.SIGKILL)
    until(lambda: not engines(up))
    up.start()
    until(lambda: serves(up), 60)
    seen = asyncio.run(runs(up, deployment.deployment_id))
    assert [each.event for each in seen.events].count("model.deployment.started") >= 1
    assert up.stop() == 0
    assert not engines(up)


def test_an_orderly_restart_of_the_controller_tells_nobody_that_nodes_are_lost(up: Up) -> None:
    up.start()
    deployment = asyncio.run(deployed(up))
    before = up.parts()["controller"]
    os.kill(before.pid, signal.SIGTERM)
    until(lambda: up.parts().get("controller") not in (None, before))
    until(up.ready)
    assert up.nodes()[0]["status"] == "online"
    seen = asyncio.run(runs(up, deployment.deployment_id))
    assert [each.event for each in seen.events].count("replica.lost") == 0
    assert up.stop() == 0
