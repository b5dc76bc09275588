"""Docker itself goes away: what runs is taken to run on, and what cannot be known is not made up."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED_SERVERS
from tests.daemon_support import QUICK, TOKEN, Controller, controller, until
from tests.engines import images
from tests.engines.dockerd import Dockerd, dockerd
from tests.engines.node import box_launcher, box_node, called, deploy, last, said, served, stop

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers import docker_api, docker_watch
from aiwm.kit.settings import Settings
from aiwm.protocol import node_channel as channel


@pytest.fixture
async def one() -> AsyncIterator[Controller]:
    async with controller() as found:
        yield found


@pytest.fixture
def lasting(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    """One whose containers outlive it."""
    yield from _own(request, live_restore=True)


@pytest.fixture
def brittle(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    """One whose containers end with it."""
    yield from _own(request, live_restore=False)


def _own(request: pytest.FixtureRequest, *, live_restore: bool) -> Iterator[Dockerd]:
    shared = request.session.stash.setdefault(SHARED_SERVERS, set())
    with dockerd(live_restore=live_restore, pids=shared) as own:
        images.add_busybox(own)
        yield own


def down(daemon: Daemon) -> list[Any]:
    return [each for each in daemon._launcher.conditions() if each.type == "ContainerRuntimeDown"]


async def running(docker: Dockerd) -> list[str]:
    return [each["Id"] for each in await called(docker, "GET", "/containers/json")]


async def test_engines_live_through_a_restart_of_docker_with_live_restore(
    lasting: Dockerd, one: Controller, tmp_path: Path
) -> None:
    async with box_node(one, lasting, tmp_path) as daemon:
        await served(one)
        before = await running(lasting)
        await asyncio.to_thread(lasting.stop)
        await until(lambda: down(daemon) and "systemctl start docker" in down(daemon)[0].message)
        # Without firewall rules its port's proxy ends with Docker: it may not answer, but it did not end.
        assert last(one)["state"] in ("running", "unhealthy")
        await asyncio.to_thread(lasting.start)
        await until(lambda: not down(daemon), 20)
        assert await running(lasting) == before
        await until(lambda: last(one)["state"] == "running")
        assert last(one)["restarts"] == 0
        await stop(one)


async def test_engines_that_ended_with_docker_are_started_again_at_once_and_it_is_said(
    brittle: Dockerd, one: Controller, tmp_path: Path
) -> None:
    async with box_node(one, brittle, tmp_path) as daemon:
        await served(one)
        before = await running(brittle)
        await asyncio.to_thread(brittle.stop)
        await until(lambda: down(daemon))
        # Nobody can know yet what became of it.
        assert last(one)["state"] in ("running", "unhealthy")
        await asyncio.to_thread(brittle.start)
        await until(lambda: said(one, "set live-restore in Docker's settings"), 20)
        await until(lambda: last(one)["state"] == "running", 20)
        assert last(one)["restarts"] == 0
        now = await running(brittle)
        assert len(now) == 1
        assert now != before
        await stop(one)


async def test_docker_killed_is_no_end_of_its_containers(lasting: Dockerd, one: Controller, tmp_path: Path) -> None:
    async with box_node(one, lasting, tmp_path) as daemon:
        await served(one)
        before = await running(lasting)
        await asyncio.to_thread(lasting.kill)
        await until(lambda: down(daemon))
        await asyncio.to_thread(lasting.start)
        await until(lambda: not down(daemon), 20)
        assert await running(lasting) == before
        await stop(one)


async def test_a_docker_that_hangs_is_away_until_it_answers_again(
    lasting: Dockerd, one: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_watch, "PING_EVERY_SECONDS", 0.2)
    monkeypatch.setattr(docker_api, "PING_SECONDS", 1.0)
    async with box_node(one, lasting, tmp_path) as daemon:
        await served(one)
        before = await running(lasting)
        with lasting.hung():
            await until(lambda: down(daemon) and "no answer for 1 s" in down(daemon)[0].message)
            assert last(one)["state"] in ("running", "unhealthy")
        await until(lambda: not down(daemon), 20)
        assert await running(lasting) == before
        await until(lambda: last(one)["state"] == "running")
        assert last(one)["restarts"] == 0
        # Asking it costs nothing of what it tells.
        await asyncio.to_thread(lasting.remove, before[0])
        await until(lambda: said(one, "outside of AIWM"), 20)
        await stop(one)


async def test_without_docker_orders_wait_or_say_so_and_a_stop_is_kept_until_it_is_done(
    lasting: Dockerd, one: Controller, tmp_path: Path
) -> None:
    async with box_node(one, lasting, tmp_path) as daemon:
        await served(one)
        await asyncio.to_thread(lasting.stop)
        await until(lambda: down(daemon))
        asked = {"deploymentId": "deploy-1", "graceSeconds": 2}
        ending = await one.command("command.stop", asked)
        await until(lambda: said(one, "it is tried until it works"))
        assert last(one)["state"] == "stopping"
        assert not one.results(ending)
        other = await deploy(one, replica_id="replica-2", deployment_id="deploy-2", container_id="engine-002")
        assert other["error"]["retryable"], other
        await asyncio.to_thread(lasting.start)
        assert (await one.result(ending, 20))["status"] == "success"
        await until(lambda: not down(daemon), 20)
        assert not await running(lasting)
        await one.result(await one.command("command.stop", {"deploymentId": "deploy-2"}), 20)


async def test_a_daemon_that_starts_without_docker_takes_its_engines_to_run_on(
    lasting: Dockerd, one: Controller, tmp_path: Path
) -> None:
    async with box_node(one, lasting, tmp_path):
        await served(one)
    before = await running(lasting)
    await asyncio.to_thread(lasting.stop)
    registered = len(one.of(channel.NODE_REGISTER))
    async with box_node(one, lasting, tmp_path) as daemon:
        await until(lambda: len(one.of(channel.NODE_REGISTER)) > registered)
        report = one.of(channel.NODE_REGISTER)[-1]["data"]
        assert [each["state"] for each in report["replicas"]] == ["running"]
        assert "ContainerRuntimeDown" in [each["type"] for each in report["conditions"]]
        assert "docker" in report["launchers"]
        await asyncio.to_thread(lasting.start)
        await until(lambda: not down(daemon), 20)
        assert await running(lasting) == before
        await stop(one)


async def test_containers_outlive_all_that_their_daemon_belongs_to(
    lasting: Dockerd, one: Controller, tmp_path: Path
) -> None:
    lifeline, writer = os.pipe()
    settings = Settings(data_dir=tmp_path, controller_url=one.url, node_token=TOKEN)
    launcher = box_launcher(lasting.environment["DOCKER_HOST"])
    daemon = asyncio.create_task(Daemon(settings, launcher=launcher, policy=QUICK, lifeline=lifeline).run())
    await served(one)
    before = await running(lasting)
    os.close(writer)
    async with asyncio.timeout(10):
        await daemon
    os.close(lifeline)
    assert await running(lasting) == before
    registered = len(one.of(channel.NODE_REGISTER))
    async with box_node(one, lasting, tmp_path):
        await until(lambda: len(one.of(channel.NODE_REGISTER)) > registered)
        await stop(one)
        assert not await running(lasting)


async def test_what_was_removed_while_the_daemon_was_away_is_started_again(
    lasting: Dockerd, one: Controller, tmp_path: Path
) -> None:
    async with box_node(one, lasting, tmp_path):
        await served(one)
    before = await running(lasting)
    await asyncio.to_thread(lasting.remove, before[0])
    async with box_node(one, lasting, tmp_path):
        await until(lambda: said(one, "its container was removed outside of AIWM"), 20)
        await until(lambda: last(one)["state"] == "running", 20)
        assert len(await running(lasting)) == 1
        await stop(one)
