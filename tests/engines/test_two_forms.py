"""A replica whose engine is to be had in both forms: however it changes from one to the other, there is one engine."""

from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from tests.daemon_support import QUICK, TOKEN, Controller, TinyEngine, controller, running, until
from tests.engines.dockerd import Dockerd
from tests.engines.node import BoxEngine, called, deploy, said, stop

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.docker import DockerLauncher, DockerSettings
from aiwm.daemon.launchers.port import Running
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.daemon.launchers.several import SeveralLaunchers
from aiwm.daemon.launching import launchers
from aiwm.kit.settings import Settings
from aiwm.protocol import node_channel as channel
from aiwm.protocol.states import EngineName

NAME = "engine-001"


@pytest.fixture
async def one() -> AsyncIterator[Controller]:
    async with controller() as found:
        yield found


def launcher_of(docker: Dockerd, *, installed: bool) -> SeveralLaunchers:
    settings = DockerSettings(host=docker.environment["DOCKER_HOST"], allowed=["lab/*"])
    own = {EngineName.TRITON: TinyEngine()} if installed else {}
    return SeveralLaunchers(ProcessLauncher(own), DockerLauncher({EngineName.TRITON: BoxEngine()}, settings))


def settings_of(one: Controller, folder: Path) -> Settings:
    return Settings(data_dir=folder, controller_url=one.url, node_token=TOKEN)


async def test_a_container_that_ends_where_the_engine_is_installed_by_now_goes_on_as_one_process(
    docker: Dockerd, busybox_image: str, one: Controller, tmp_path: Path
) -> None:
    folder, settings = tmp_path / "node/replicas/replica-1", settings_of(one, tmp_path)
    async with running(Daemon(settings, launcher=launcher_of(docker, installed=False), policy=QUICK)):
        assert (await deploy(one, engine="triton", engine_args=[], image=None))["status"] == "success"
    launcher = launcher_of(docker, installed=True)
    one.messages.clear()
    async with running(Daemon(settings, launcher=launcher, policy=QUICK)):
        await until(lambda: one.of(channel.NODE_REGISTER))
        await called(docker, "POST", f"/containers/{NAME}/kill")
        await until(lambda: [each for each in said(one, "serving") if each["restarts"] == 1])
        status = launcher.status(folder)
        assert isinstance(status, Running)
        assert docker.left_behind() == []
        engine = psutil.Process(status.pid)
        await stop(one)
        assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


async def test_with_docker_switched_off_what_runs_there_is_looked_after_until_it_is_stopped(
    docker: Dockerd, busybox_image: str, one: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(one, tmp_path)
    async with running(Daemon(settings, launcher=launcher_of(docker, installed=False), policy=QUICK)):
        assert (await deploy(one, engine="triton", engine_args=[], image=None))["status"] == "success"
    monkeypatch.setenv("DOCKER_HOST", docker.environment["DOCKER_HOST"])
    off = launchers(Settings(data_dir=tmp_path, docker_host="off"), tmp_path / "node", None, lambda _: None)
    one.messages.clear()
    async with running(Daemon(settings, launcher=off, policy=QUICK)):
        registered = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
        assert [each["state"] for each in registered["replicas"]] == ["running"]
        assert registered["launchers"] == ["process"]
        await stop(one)
        assert docker.left_behind() == []
    later = launchers(Settings(data_dir=tmp_path, docker_host="off"), tmp_path / "node", None, lambda _: None)
    assert isinstance(later, ProcessLauncher)
