"""Whatever Docker answers, what runs engines on it says so in words."""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.daemon_support import until

from aiwm.daemon.engines.base import EnginePlan
from aiwm.daemon.launchers.docker import DockerLauncher, DockerSettings
from aiwm.daemon.launchers.fake import FakeEngine
from aiwm.protocol.errors import AiwmError, Unavailable
from aiwm.protocol.states import EngineName

PLAN = EnginePlan(argv=("serve",), environment={}, ready=(), image="lab/box:1")
Question = Callable[[DockerLauncher, Path], Coroutine[Any, Any, Any]]
QUESTIONS: dict[str, Question] = {
    "provide": lambda launcher, _: launcher.provide(PLAN, _tell),
    "start": lambda launcher, folder: launcher.start(folder, PLAN),
    "stop": lambda launcher, folder: launcher.stop(folder, 0),
    "logs": lambda launcher, folder: launcher.logs(folder, tail=9, offset=None),
    "later logs": lambda launcher, folder: launcher.logs(folder, tail=9, offset=9),
}


async def _tell(_: str) -> None:
    pass


@contextlib.asynccontextmanager
async def answering(
    status: int, text: str, *, knows_itself: bool = True, asked: list[str] | None = None
) -> AsyncIterator[str]:
    """The address of what answers like this, be it to everything or to all but the question for its version."""

    async def answer(request: web.Request) -> web.Response:
        if asked is not None:
            asked.append(request.path)
        if knows_itself and request.path.endswith("/version"):
            return web.json_response({"ApiVersion": "1.41"})
        return web.Response(status=status, text=text, content_type="application/json")

    application = web.Application()
    application.router.add_route("*", "/{any:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    with tempfile.TemporaryDirectory(prefix="dk") as short:
        await web.UnixSite(runner, f"{short}/docker.sock").start()
        try:
            yield f"unix://{short}/docker.sock"
        finally:
            await runner.cleanup()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a replica that has a container."""
    path = tmp_path / "replica-1"
    path.mkdir()
    (path / "container.json").write_text('{"name": "a", "id": "1"}')
    return path


@pytest.mark.parametrize("knows_itself", [True, False])
@pytest.mark.parametrize(
    ("status", "text"),
    [(500, '{"message": "no"}'), (503, "no"), (400, '{"message": "too old"}'), (403, "no"), (200, "no JSON")],
)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_docker_in_trouble_is_an_error_in_words(
    folder: Path, question: str, status: int, text: str, knows_itself: bool
) -> None:
    async with answering(status, text, knows_itself=knows_itself) as host:
        launcher = DockerLauncher({}, DockerSettings(host=host, allowed=["lab/*"]))
        try:
            await launcher.open()
            assert launcher.conditions()
            with pytest.raises(AiwmError) as caught:
                await QUESTIONS[question](launcher, folder)
            assert caught.value.message.startswith("cannot ")
            if status >= 500 or question in ("stop", "start"):
                # A start begins with the end of what there was.
                assert isinstance(caught.value, Unavailable)
                assert caught.value.retryable
            assert await launcher.output(folder) == ""
        finally:
            await launcher.close()


@pytest.mark.parametrize("status", [400, 500])
async def test_a_docker_in_trouble_is_asked_again(status: int) -> None:
    asked: list[str] = []
    async with answering(status, "no", asked=asked) as host:
        following = asyncio.create_task(DockerLauncher({}, DockerSettings(host=host)).follow())
        await until(lambda: following.done() or sum(each.endswith("/events") for each in asked) == 2)
        assert not following.done()
        following.cancel()
        await asyncio.wait({following})


@pytest.mark.parametrize("host", ["/var/run/docker.sock", "localhost:2375", "fd://", "npipe:////./pipe/docker_engine"])
async def test_a_docker_that_cannot_be_asked_is_none_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    launcher = DockerLauncher({}, DockerSettings())
    await launcher.open()
    assert launcher.names == ()
    assert ["DOCKER_HOST must be unix:///PATH" in each.message for each in launcher.conditions()] == [True]


async def test_a_docker_with_certificates_that_are_not_there_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    launcher = DockerLauncher({}, DockerSettings(host="tcp://127.0.0.1:1"))
    await launcher.open()
    assert launcher.conditions()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user: run the tests as root")
def test_a_docker_that_this_user_may_not_use_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="dk") as short, socket.socket(socket.AF_UNIX) as listening:
        path = Path(short, "docker.sock")
        listening.bind(str(path))
        path.parent.chmod(0o755)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        launcher = DockerLauncher({EngineName.CUSTOM: FakeEngine()}, DockerSettings())
        os.setresuid(65534, 0, 0)
        try:
            for mode, names in ((0o600, ()), (0o666, ("docker",))):
                path.chmod(mode)
                assert launcher.names == names
        finally:
            os.setresuid(0, 0, 0)
