"""`aiwm node` joins: once, under its name, whatever is lost on the way; and is let in again as who it was."""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from aiohttp import ClientSession, web

from aiwm.daemon.daemon import Daemon, node_dir
from aiwm.daemon.join import Joiner, read_identity
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.kit.clock import SystemClock
from aiwm.kit.settings import Settings
from aiwm.nodes import joining
from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually, open_world

Forwarded = Callable[[web.Request, int, bytes], Awaitable[web.StreamResponse]]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "world") as opened:
        yield opened


async def a_token(world: World, **body: object) -> str:
    return str((await world.call("POST", "/api/v1/join-tokens", json=body, expect=201))["token"])


async def nodes(world: World) -> list[dict[str, Any]]:
    page: Any = await world.call("GET", "/api/v1/nodes", expect=200)
    return list(page["data"])


async def start(url: str, folder: Path, *flags: str, **environment: str) -> asyncio.subprocess.Process:
    """`aiwm node`, its log on a pipe."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    own = {"PATH": os.environ["PATH"], "AIWM_CONTROLLER_URL": url, "AIWM_DATA_DIR": str(folder)}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiwm", "node", *flags),
        env={**own, **environment},
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process, number: signal.Signals | None = None) -> tuple[int, str]:
    """Its exit code and what it wrote."""
    if number is not None:
        process.send_signal(number)
    async with asyncio.timeout(15):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


def online(world: World) -> Callable[[], bool]:
    return lambda: any(session.registered for session in world.controller.presence)


@asynccontextmanager
async def between(url: str, forwarded: Forwarded) -> AsyncIterator[str]:
    """Something between a machine and the controller, which decides what becomes of each answer to a join."""

    async def handle(request: web.Request) -> web.StreamResponse:
        async with ClientSession() as http, http.post(f"{url}{request.path}", json=await request.json()) as answer:
            return await forwarded(request, answer.status, await answer.read())

    app = web.Application()
    app.router.add_post("/api/v1/nodes/join", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(settings: Settings, launcher: FakeLauncher | None = None) -> AsyncIterator[None]:
    """A daemon in this process, as `aiwm node` runs it."""
    node_dir(settings).mkdir(parents=True, exist_ok=True)
    joiner = Joiner(settings, node_dir(settings), settings.controller_url, SystemClock())
    entered = replace(settings, node_token=await joiner.enter())
    daemon = Daemon(entered, launcher=launcher or FakeLauncher(), joiner=joiner)
    task = asyncio.create_task(daemon.run())
    try:
        yield
    finally:
        daemon.stop()
        await task


def settings_of(world: World, folder: Path, **more: str) -> Settings:
    fresh = {"controller_url": world.url, "node_name": "gpu-1", **more}
    return replace(world.infra.settings, data_dir=folder, **fresh)  # type: ignore[arg-type]


async def test_a_machine_joins_once_and_needs_no_token_afterwards(world: World, tmp_path: Path) -> None:
    token = await a_token(world, labels={"zone": "a"})
    folder = tmp_path / "machine"
    for given in ({"AIWM_JOIN_TOKEN": token}, {"AIWM_JOIN_TOKEN": token}, {}):
        process = await start(world.url, folder, "--name", "gpu-1", AIWM_LOG_LEVEL="DEBUG", **given)
        await eventually(online(world), within=20)
        command = " ".join(psutil.Process(process.pid).cmdline())
        code, said = await ended(process, signal.SIGTERM)
        assert code == 0, said
        identity = read_identity(folder / "node")
        assert identity is not None
        for secret in (token, identity.token):
            assert secret not in said + command
        await eventually(lambda: not online(world)())
    (node,) = await nodes(world)
    assert identity is not None
    assert (node["nodeId"], node["name"], node["labels"]) == (identity.node_id, "gpu-1", {"zone": "a"})
    assert node["epoch"] == 3
    kept = folder / "node" / "identity.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert token not in kept.read_text()
    assert not (folder / "node" / "join-key").exists()


async def test_a_join_token_may_come_from_a_file_and_a_name_from_the_environment(world: World, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{await a_token(world)}\n")
    flags = ("--join-token-file", str(file))
    process = await start(world.url, tmp_path / "machine", *flags, AIWM_NODE_NAME="by-environment")
    await eventually(online(world), within=20)
    assert (await ended(process, signal.SIGINT))[0] == 0
    assert [node["name"] for node in await nodes(world)] == ["by-environment"]


async def test_a_refused_join_ends_in_one_line_with_2_and_what_to_do(world: World, tmp_path: Path) -> None:
    used = await a_token(world)
    body = {"joinToken": used, "name": "taken"}
    await world.call("POST", "/api/v1/nodes/join", json=body, expect=201)
    fresh = await a_token(world)
    for number, (token, flags, words) in enumerate(
        (
            (used, (), ("was used already", "aiwm nodes join-token", "JOIN_TOKEN_USED")),
            ("aiwm_join_x_y", (), ("JOIN_TOKEN_INVALID", "aiwm nodes join-token")),
            (fresh, ("--name", "taken"), ("another node is called 'taken'", "--name taken-")),
            (fresh, ("--name", "a/b"), ("name: String should match", "VALIDATION_FAILED")),
        )
    ):
        process = await start(world.url, tmp_path / f"m{number}", *flags, AIWM_JOIN_TOKEN=token)
        code, said = await ended(process)
        assert (code, said.count("\n")) == (2, 1), said
        assert said.startswith("aiwm node: cannot ")
        assert all(each in said for each in words), said
        assert token not in said
    # The name that was taken has cost nothing: the same machine joins under another one.
    process = await start(world.url, tmp_path / "m2", "--name", "free", AIWM_JOIN_TOKEN=fresh)
    await eventually(online(world), within=20)
    assert (await ended(process, signal.SIGTERM))[0] == 0


async def test_where_the_controller_is_away_it_waits_and_ends_when_told(tmp_path: Path) -> None:
    process = await start("http://127.0.0.1:9", tmp_path / "machine", AIWM_JOIN_TOKEN="aiwm_join_x_y")
    assert process.stderr is not None
    async with asyncio.timeout(15):
        line = (await process.stderr.readline()).decode()
    assert "cannot join http://127.0.0.1:9 yet: " in line
    assert process.returncode is None
    assert (await ended(process, signal.SIGTERM))[0] == 0


async def test_a_daemon_killed_before_it_wrote_the_answer_is_the_same_node_afterwards(
    world: World, tmp_path: Path
) -> None:
    token, folder = await a_token(world), tmp_path / "machine"
    processes: list[asyncio.subprocess.Process] = []

    async def killed(_request: web.Request, status: int, _answer: bytes) -> web.StreamResponse:
        assert status == 201
        processes[0].kill()
        await processes[0].wait()
        return web.Response()

    async with between(world.url, killed) as url:
        processes.append(await start(url, folder, AIWM_JOIN_TOKEN=token, AIWM_NODE_NAME="gpu-1"))
        async with asyncio.timeout(20):
            await processes[0].communicate()
    (node,) = await nodes(world)
    assert read_identity(folder / "node") is None
    process = await start(world.url, folder, AIWM_JOIN_TOKEN=token, AIWM_NODE_NAME="gpu-1")
    await eventually(online(world), within=20)
    assert (await ended(process, signal.SIGTERM))[0] == 0
    assert [each["nodeId"] for each in await nodes(world)] == [node["nodeId"]]


class Impatient(SystemClock):
    """Waits no longer than a moment, and notes for how long it should have."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0.01)


async def test_an_answer_that_is_lost_or_not_ready_yet_is_asked_for_again(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    problem = {"type": "t", "title": "t", "status": 429, "detail": "too many", "instance": "/", "code": "JOIN_DELAYED"}
    busy = json.dumps({**problem, "correlationId": "c", "details": {"retryAfter": 99}})
    answers = ["lost", "502", "429", "through"]

    async def forwarded(request: web.Request, status: int, answer: bytes) -> web.StreamResponse:
        match answers.pop(0):
            case "lost":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "502":
                return web.Response(status=502, text="<html>")
            case "429":
                return web.Response(status=429, text=busy)
        return web.Response(status=status, body=answer)

    folder, clock = tmp_path / "node", Impatient()
    folder.mkdir()
    async with between(world.url, forwarded) as url:
        settings = settings_of(world, tmp_path, join_token=await a_token(world))
        token = await Joiner(settings, folder, url, clock).enter()
    (node,) = await nodes(world)
    assert (await world.controller.nodes.authenticate(token))[0].id == node["nodeId"]
    assert clock.pauses[2] == 99
    assert [1 <= each <= 8 for each in clock.pauses[:2]] == [True, True]
    assert "it answered 502" in caplog.text


async def test_a_revoked_node_is_told_what_to_do_and_comes_back_as_itself(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(world, tmp_path / "m", join_token=await a_token(world))
    async with running(settings):
        await eventually(online(world))
        (node,) = await nodes(world)
        path = f"/api/v1/nodes/{node['nodeId']}"
        await world.call("POST", f"{path}/revoke", expect=200)
        await eventually(lambda: not online(world)(), within=2)
        await eventually(lambda: "the controller refused this node" in caplog.text)
    assert "let this node in again: aiwm nodes join-token --node" in caplog.text
    # What this folder runs belongs to that node, so a token for a new one is not taken, and nothing is lost by it.
    caplog.clear()
    async with running(replace(settings, join_token=await a_token(world))):
        await eventually(lambda: "cannot join as another node" in caplog.text)
    assert len(await nodes(world)) == 1
    async with running(replace(settings, join_token=await a_token(world, nodeId=node["nodeId"]))):
        await eventually(online(world))
    assert [each["nodeId"] for each in await nodes(world)] == [node["nodeId"]]
    await eventually(lambda: not online(world)())
    async with running(replace(settings, join_token="")):
        await eventually(online(world))


async def test_an_engine_is_never_started_again_while_its_node_is_revoked_and_let_in_again(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, launcher = settings_of(world, tmp_path / "m", join_token=await a_token(world)), FakeLauncher()
    model_id = await ready_model(world)
    async with running(settings, launcher):
        await eventually(online(world))
        made = await world.call("POST", "/api/v1/deployments", json={"name": "d", "modelId": model_id}, expect=201)

        async def serves() -> bool:
            path = f"/api/v1/deployments/{made['deploymentId']}"
            return (await world.call("GET", path, expect=200))["status"] == "running"

        await eventually(serves)
        (node,) = await nodes(world)
        await world.call("POST", f"/api/v1/nodes/{node['nodeId']}/revoke", expect=200)
        await eventually(lambda: not online(world)())
        (engine,) = launcher.seen.values()
    # Another start in the meantime, with a token that is not for this node, touches nothing either.
    async with running(replace(settings, join_token=await a_token(world)), launcher):
        await eventually(lambda: "cannot join as another node" in caplog.text)
        assert list(launcher.seen.values()) == [engine]
    async with running(replace(settings, join_token=await a_token(world, nodeId=node["nodeId"])), launcher):
        await eventually(online(world))
        await eventually(serves)
        assert list(launcher.seen.values()) == [engine]
    assert launcher.starts == 1


async def test_a_joined_node_lives_through_renewals_and_returns_by_a_join_token_after_its_token_has_expired(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(joining, "TOKEN_SECONDS", 4)
    settings = settings_of(world, tmp_path / "m", join_token=await a_token(world))
    kept = node_dir(settings) / "renewed-token"
    seen: set[str] = set()

    async def renewed_thrice() -> bool:
        await world.controller.channel.look()
        if kept.exists():
            seen.add(json.loads(kept.read_text())["token"])
        return len(seen) >= 3

    async with running(settings):
        await eventually(online(world))
        await eventually(renewed_thrice, within=30)
        assert online(world)()
        (node,) = await nodes(world)
        assert node["epoch"] == 1
    await eventually(lambda: not online(world)())

    async def expired() -> bool:
        now = world.infra.clock.now()
        held = [world.infra.tokens._signed_claims(each)["exp"] for each in seen]
        return now.timestamp() > max(float(str(each)) for each in held) + 1

    await eventually(expired, within=20)
    async with running(settings):
        await eventually(lambda: "TOKEN_EXPIRED" in caplog.text)
    assert "let this node in again: aiwm nodes join-token --node" in caplog.text
    async with running(replace(settings, join_token=await a_token(world, nodeId=node["nodeId"]))):
        await eventually(online(world))
    assert [each["nodeId"] for each in await nodes(world)] == [node["nodeId"]]
