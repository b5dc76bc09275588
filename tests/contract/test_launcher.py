"""What every launcher promises: at most one engine per folder, known again, and nothing left of it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import SHARED_SERVERS
from tests.contract.launcher_kinds import DockerKind, FakeKind, Kind, ProcessKind
from tests.daemon_support import until
from tests.engines import images
from tests.engines.dockerd import Dockerd, dockerd

from aiwm.daemon.engines.base import EnginePlan
from aiwm.daemon.launchers.port import Ended, Launcher, Running


@pytest.fixture(scope="module")
def docker(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    with dockerd(pids=request.session.stash.setdefault(SHARED_SERVERS, set())) as one:
        images.add_busybox(one)
        yield one


def _kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Whatever a test leaves in Docker fails it."""
    if request.param != "docker":
        yield ProcessKind() if request.param == "process" else FakeKind()
        return
    one: Dockerd = request.getfixturevalue("docker")
    yield DockerKind(one)
    if left := one.left_behind():
        pytest.fail(f"left in Docker: {', '.join(left)}")


@pytest.fixture(params=["fake", "process", "docker"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    yield from _kind(request)


@pytest.fixture(params=["process", "docker"])
def real(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Launchers whose engines do something."""
    yield from _kind(request)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "replica-1"
    path.mkdir()
    return path


async def served(launcher: Launcher, folder: Path, plan: EnginePlan) -> Running:
    running = await launcher.start(folder, plan)
    async with asyncio.timeout(20):
        while not await launcher.ready(folder, plan.ready):  # noqa: ASYNC110 - asking is all there is
            await asyncio.sleep(0.02)
    return running


async def ended(launcher: Launcher, folder: Path) -> Ended:
    found = await until(lambda: isinstance(launcher.status(folder), Ended) and launcher.status(folder))
    assert isinstance(found, Ended)
    return found


async def test_nothing_is_known_of_a_folder_without_an_engine(kind: Kind, folder: Path) -> None:
    async with kind.opened() as launcher:
        assert launcher.status(folder) is None
        assert not await launcher.ready(folder, kind.plan("serve").ready)
        assert await launcher.output(folder) == ""
        await launcher.stop(folder, 1)


async def test_an_engine_runs_from_start_to_stop_and_nothing_of_it_afterwards(kind: Kind, folder: Path) -> None:
    async with kind.opened() as launcher:
        running = await served(launcher, folder, kind.plan("serve"))
        assert launcher.status(folder) == running
        assert kind.running(folder) == 1
        await launcher.stop(folder, 5)
        assert not isinstance(launcher.status(folder), Running)
        assert kind.running(folder) == 0


async def test_a_second_start_takes_the_place_of_the_first(kind: Kind, folder: Path) -> None:
    async with kind.opened() as launcher:
        first = await served(launcher, folder, kind.plan("serve"))
        second = await served(launcher, folder, kind.plan("serve"))
        assert first != second
        assert launcher.status(folder) == second
        assert kind.running(folder) == 1
        await launcher.stop(folder, 0)


async def test_another_launcher_knows_the_engine_again(kind: Kind, folder: Path) -> None:
    plan = kind.plan("serve")
    async with kind.opened() as launcher:
        running = await served(launcher, folder, plan)
    async with kind.opened() as later:
        assert later.status(folder) == running
        assert await later.ready(folder, plan.ready)
        assert (await served(later, folder, kind.plan("serve"))) != running
        assert kind.running(folder) == 1
        await later.stop(folder, 0)
    assert kind.running(folder) == 0


async def test_an_engine_that_ignores_sigterm_ends_after_the_grace(real: Kind, folder: Path) -> None:
    async with real.opened() as launcher:
        await served(launcher, folder, real.plan("stubborn"))
        async with asyncio.timeout(10):
            await launcher.stop(folder, 1)
        assert real.running(folder) == 0


@pytest.mark.parametrize(("behaviour", "reason"), [("finish", "ended with code 0"), ("fail", "ended with code 1")])
async def test_an_end_has_its_code_also_for_a_later_launcher(
    real: Kind, folder: Path, behaviour: str, reason: str
) -> None:
    async with real.opened() as launcher:
        await launcher.start(folder, real.plan(behaviour))
        assert await ended(launcher, folder) == Ended(reason)
        assert not await launcher.ready(folder, real.plan("serve").ready)
    async with real.opened() as later:
        assert later.status(folder) == Ended(reason)
        await later.stop(folder, 0)


async def test_what_an_engine_wrote_can_be_read_after_its_end(real: Kind, folder: Path) -> None:
    async with real.opened() as launcher:
        await launcher.start(folder, real.plan("fail"))
        await ended(launcher, folder)
        assert "cannot load the model" in await launcher.output(folder)
        await launcher.stop(folder, 0)
        last = await launcher.logs(folder, tail=10, offset=None)
        assert "cannot load the model" in last.text
        assert (await launcher.logs(folder, tail=10, offset=last.next_offset)).text == ""


async def test_a_log_goes_on_where_it_was_left(real: Kind, folder: Path) -> None:
    async with real.opened() as launcher:
        await served(launcher, folder, real.plan("serve"))
        first = await launcher.logs(folder, tail=100, offset=None)
        assert "it is loading" in first.text
        again = await launcher.logs(folder, tail=100, offset=first.next_offset)
        assert (again.text, again.next_offset) == ("", first.next_offset)
        await launcher.stop(folder, 0)


async def test_engines_outlive_whom_they_are_meant_to(kind: Kind, folder: Path) -> None:
    async with kind.opened() as launcher:
        assert launcher.outlives(folder) is isinstance(kind, DockerKind)
