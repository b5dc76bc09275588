"""What befalls containers: each fault has its words, nothing doubles, and nothing of it is left."""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.launcher_kinds import docker_launcher
from tests.daemon_support import TOKEN, Controller, controller, order, until
from tests.engines import images
from tests.engines.dockerd import Dockerd
from tests.engines.node import BoxEngine, box_node, called, deploy, is_running, last, said, served, stop

from aiwm.daemon.engines.base import Address, EnginePlan, Ports
from aiwm.daemon.ports import choose_ports
from aiwm.protocol import node_channel as channel
from aiwm.protocol.node_channel import DeployCommand

NAME = "engine-001"


@pytest.fixture
async def one() -> AsyncIterator[Controller]:
    async with controller() as found:
        yield found


@pytest.fixture
def box(docker: Dockerd, busybox_image: str) -> Dockerd:
    return docker


def containers(docker: Dockerd, *, all: bool = True) -> list[str]:
    found = docker.call("GET", "/containers/json", query={"all": "1"} if all else None)
    return [each["Id"] for each in found]


async def test_a_container_has_what_it_was_given_and_nothing_of_the_daemon(
    box: Dockerd, one: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIWM_TEST_SECRET", "of-the-daemon")
    async with box_node(one, box, tmp_path):
        resources = {"ram": 64, "cpuCores": 0.5}
        await served(one, environment_variables={"MINE": "1"}, resources=resources)
        found = await called(box, "GET", f"/containers/{NAME}/json")
        assert not [each for each in found["Config"]["Env"] if "of-the-daemon" in each or TOKEN in each]
        assert {each.partition("=")[0] for each in found["Config"]["Env"]} <= {
            *("MINE", "PORT", "HOME", "PATH", "NVIDIA_VISIBLE_DEVICES")
        }
        host = found["HostConfig"]
        assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (64 << 20, 64 << 20, 500_000_000)
        assert (host["Privileged"], host["CapDrop"]) == (False, ["ALL"])
        assert list(found["NetworkSettings"]["Networks"]) == ["aiwm"]
        network = await called(box, "GET", f"/networks/{host['NetworkMode']}")
        assert network["Options"] == {"com.docker.network.bridge.enable_icc": "false"}
        assert all(not each["RW"] for each in found["Mounts"])
        assert [each["HostIp"] for ports in host["PortBindings"].values() for each in ports] == ["127.0.0.1"]
        await stop(one)
        assert not containers(box)


async def test_a_container_without_a_record_is_named_and_left(box: Dockerd, tmp_path: Path) -> None:
    folder = tmp_path / "replica-1"
    folder.mkdir()
    plan = EnginePlan(("serve",), {"PORT": "80"}, (), image=images.BUSYBOX)
    async with docker_launcher(box, replicas=tmp_path) as launcher:
        await launcher.start(folder, plan)
        assert not launcher.conditions()
    shutil.rmtree(folder)
    async with docker_launcher(box, replicas=tmp_path) as launcher:
        (condition,) = launcher.conditions()
        assert condition.message.endswith("docker rm --force aiwm-replica-1")
        assert len(containers(box, all=False)) == 1
        await asyncio.to_thread(box.remove, "aiwm-replica-1")
        await until(lambda: not launcher.conditions())


class LinkingEngine(BoxEngine):
    """Its workspace has a link to a file of the machine."""

    def __init__(self, target: Path) -> None:
        super().__init__()
        self.target = target

    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        plan = super().prepare(order, artifact, workspace, ports, address)
        (workspace / "link").symlink_to(self.target)
        look = f"cat {workspace}/link || echo nothing there; exec engine serve"
        return replace(plan, argv=("sh", "-c", look))


async def test_links_lead_to_nothing_of_the_machine(box: Dockerd, one: Controller, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the machine")
    secret.chmod(0o600)
    async with box_node(one, box, tmp_path / "data", engine=LinkingEngine(secret)):
        await served(one)
        asked = {"deploymentId": "deploy-1", "replicaId": "replica-1", "tail": 20}
        result = await one.result(await one.command("command.logs", asked))
        assert "nothing there" in result["result"]["text"]
        assert "of the machine" not in result["result"]["text"]
        assert secret.stat().st_mode & 0o777 == 0o600
        await stop(one)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("finish",), "ended with code 0"),
        (("fail", "bad config"), "ended with code 1"),
        (("eat",), "used all of its memory limit (32 MiB); give it more with resources.ram"),
        (("/nowhere",), "ended with code 127: its command is not in the image"),
    ],
)
async def test_an_engine_that_ends_says_why(
    box: Dockerd, one: Controller, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    async with box_node(one, box, tmp_path):
        await deploy(one, *arguments, resources={"ram": 32})
        await until(lambda: said(one, words))
        await stop(one)
    assert not containers(box)


async def test_an_engine_that_never_served_fails_at_once_and_its_last_words_are_kept(
    box: Dockerd, one: Controller, tmp_path: Path
) -> None:
    async with box_node(one, box, tmp_path):
        result = await deploy(one, "fail", "bad config")
        assert result["error"]["code"] == "CONTAINER_START_FAILED"
        assert one.of(channel.DEPLOYMENT_LOGS)[-1]["data"]["lines"] == ["cannot load the model: bad config"]
        assert not containers(box)
        asked = {"deploymentId": "deploy-1", "replicaId": "replica-1", "tail": 5}
        logs = await one.result(await one.command("command.logs", asked))
        assert "bad config" in logs["result"]["text"]
        await stop(one)


async def test_an_engine_that_ignores_sigterm_is_killed_after_its_grace(
    box: Dockerd, one: Controller, tmp_path: Path
) -> None:
    async with box_node(one, box, tmp_path):
        await served(one, "stubborn")
        async with asyncio.timeout(8):
            await stop(one, grace=1)
        assert not containers(box)


async def test_a_port_that_another_took_meanwhile_is_another_s(box: Dockerd, one: Controller, tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    chosen: list[Ports] = []

    def choose(address: Address) -> Ports:
        free = choose_ports(address)
        chosen.append(free if chosen else Ports(taken.getsockname()[1], free.grpc, free.metrics))
        return chosen[-1]

    with taken:
        async with box_node(one, box, tmp_path, choose=choose):
            await served(one)
            assert last(one)["containerPort"] == chosen[1].http
            assert len(containers(box)) == 1
            await stop(one)


@pytest.mark.parametrize(
    ("method", "route", "query", "words"),
    [
        ("DELETE", f"/containers/{NAME}", {"force": "1"}, "outside of AIWM"),
        ("POST", f"/containers/{NAME}/kill", {}, "was ended outside of AIWM: its container was sent SIGKILL"),
        ("POST", f"/containers/{NAME}/stop", {"t": "5"}, "was ended outside of AIWM: its container was sent SIGTERM"),
        ("POST", f"/containers/{NAME}/restart", {"t": "5"}, ""),
    ],
)
async def test_what_somebody_does_to_a_container_is_said_and_made_good(
    box: Dockerd, one: Controller, tmp_path: Path, method: str, route: str, query: dict[str, str], words: str
) -> None:
    async with box_node(one, box, tmp_path):
        await served(one)
        before = len(one.of(channel.DEPLOYMENT_STATUS))
        await called(box, method, route, query=query)
        await until(lambda: len(one.of(channel.DEPLOYMENT_STATUS)) > before and last(one)["state"] == "running", 20)
        assert said(one, words)
        assert len(containers(box)) == 1
        await stop(one)


async def test_a_paused_container_is_no_end(box: Dockerd, one: Controller, tmp_path: Path) -> None:
    async with box_node(one, box, tmp_path):
        await served(one)
        before = containers(box)
        await called(box, "POST", f"/containers/{NAME}/pause")
        await until(lambda: said(one, f"somebody paused its container; docker unpause {NAME}"))
        await called(box, "POST", f"/containers/{NAME}/unpause")
        await until(lambda: last(one)["message"] == "serving again")
        assert containers(box) == before
        await called(box, "POST", f"/containers/{NAME}/pause")
        async with asyncio.timeout(8):
            await stop(one, grace=2)
        assert not containers(box)


async def test_an_image_that_is_allowed_no_more_runs_on_until_it_is_stopped(
    box: Dockerd, busybox_image: str, one: Controller, tmp_path: Path
) -> None:
    async with box_node(one, box, tmp_path):
        await served(one, image=busybox_image)
    before = containers(box)
    one.messages.clear()
    async with box_node(one, box, tmp_path, allowed=["others/*"]):
        await until(lambda: one.of(channel.NODE_REGISTER))
        refused = await deploy(one, image=busybox_image, replica_id="replica-2")
        assert refused["error"]["code"] == "IMAGE_NOT_ALLOWED"
        assert containers(box) == before
        report = await one.result(await one.command("command.healthCheck", {}))
        assert [each["state"] for each in report["result"]["replicas"]] == ["running"]
        await stop(one)
    assert not containers(box)


async def test_a_container_of_others_with_the_name_is_left_alone(
    box: Dockerd, busybox_image: str, one: Controller, tmp_path: Path
) -> None:
    body = {"Image": busybox_image, "Cmd": ["serve"]}
    theirs = box.call("POST", "/containers/create", query={"name": NAME}, body=body)["Id"]
    async with box_node(one, box, tmp_path):
        result = await deploy(one)
        assert result["error"]["code"] == "CONTAINER_START_FAILED"
        assert f"docker rename {NAME}" in result["error"]["message"]
        await stop(one)
    assert containers(box) == [theirs]
    box.remove(theirs)


async def test_without_a_gpu_runtime_the_code_says_so(box: Dockerd, one: Controller, tmp_path: Path) -> None:
    async with box_node(one, box, tmp_path) as daemon:
        daemon._supervisor._gpus = lambda: {"GPU-1"}
        result = await deploy(one, gpu_device_ids=["GPU-1"])
        assert result["error"]["code"] == "GPU_NOT_AVAILABLE"
        assert "nvidia-ctk runtime configure" in result["error"]["message"]
        assert not containers(box)
        await stop(one)


async def test_a_flood_of_output_is_bounded_and_holds_nobody_up(box: Dockerd, one: Controller, tmp_path: Path) -> None:
    async with box_node(one, box, tmp_path):
        # As fast as Docker takes it, which is more than 1 GB a minute.
        await served(one, "flood", str(300 << 20))
        asked = {"deploymentId": "deploy-1", "replicaId": "replica-1", "tail": 100}
        slowest, most = 0.0, 0
        async with asyncio.timeout(60):
            while most < 25 << 20:
                began = asyncio.get_running_loop().time()
                result = await one.result(await one.command("command.logs", asked))
                slowest = max(slowest, asyncio.get_running_loop().time() - began)
                assert len(result["result"]["text"]) < 300_000
                most = max(most, _log_bytes(box))
        assert most < 35 << 20
        assert slowest < 3
        assert last(one)["state"] == "running"
        await stop(one)


def _log_bytes(docker: Dockerd) -> int:
    logs = Path(docker.folder, "data/containers", containers(docker)[0])
    return sum(each.stat().st_size for each in logs.glob("*-json.log*"))


CHILD = """
import asyncio, sys
from pathlib import Path
from aiwm.daemon.daemon import Daemon
from aiwm.kit.settings import Settings
from tests.daemon_support import QUICK, TOKEN
from tests.engines.node import box_launcher

async def main():
    settings = Settings(data_dir=Path(sys.argv[1]), controller_url=sys.argv[2], node_token=TOKEN)
    await Daemon(settings, launcher=box_launcher(sys.argv[3]), policy=QUICK).run()

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.05, 0.1, 0.2, 0.35])
async def test_a_daemon_killed_while_a_container_starts_leaves_one_engine(
    box: Dockerd, one: Controller, tmp_path: Path, moment: float
) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, str(tmp_path), one.url, box.environment["DOCKER_HOST"]),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    await until(lambda: one.of(channel.NODE_REGISTER), 20)
    await one.command("command.deploy", order(engine="custom", engine_args=["serve"], image=images.BUSYBOX).to_wire())
    await until(lambda: said(one, "starting custom"))
    await asyncio.sleep(moment)
    child.send_signal(signal.SIGKILL)
    await child.wait()
    registered = len(one.of(channel.NODE_REGISTER))
    async with box_node(one, box, tmp_path):
        await until(lambda: len(one.of(channel.NODE_REGISTER)) > registered and is_running(one), 20)
        assert len(containers(box)) == 1
        await stop(one)
        assert not containers(box)
