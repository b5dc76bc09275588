"""The fleet simulator: real daemons by the dozen in one world, each fault, and what its command line does."""

import asyncio
import functools
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.daemon_support import TOKEN, controller, until

from aiwm.infra.store.port import Store, Where
from aiwm.infra.store.sqlite import open_sqlite
from aiwm.kit.settings import Settings
from aiwm.nodes.records import OBSERVATIONS
from aiwm.protocol import node_channel as channel
from aiwm.sdk.client import Client
from aiwm.testing import enrolment
from aiwm.testing.counting import StoreCounts
from aiwm.testing.faults import Faults
from aiwm.testing.fleet import Fleet
from aiwm.testing.road import ready_model
from aiwm.testing.weather import WeatherLoop
from aiwm.testing.world import ADMIN_PASSWORD, World, eventually, open_world

NODES = 20


def under_weather(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test on the simulator's own event loop, with nothing of it left running."""

    async def whole(*args: Any, **fixtures: Any) -> None:
        await test(*args, **fixtures)
        await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()}, within=1)

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=WeatherLoop) as runner:
            runner.run(whole(*args, **fixtures))

    return run


@asynccontextmanager
async def fleet_in(world: World, nodes: int = NODES, faults: Faults | None = None) -> AsyncIterator[Fleet]:
    """`nodes` nodes of a world, once all of them are registered."""
    settings = replace(world.infra.settings, controller_url=world.url)
    async with Fleet(settings, world.folder / "fleet", gpus=8, faults=faults) as fleet, Client(world.url) as client:
        await client.login("admin", ADMIN_PASSWORD)
        async for name, token in enrolment.enrol(client, nodes):
            fleet.start(name, token, nodes=nodes)
        await eventually(lambda: fleet.count().connected == nodes, within=30)
        yield fleet
    assert fleet.error is None


async def _with_status(world: World, status: str) -> int:
    listed: Any = await world.call("GET", f"/api/v1/nodes?filter[status]={status}&limit=1", expect=200)
    return int(listed["pagination"]["total"])


async def _all_are(world: World, status: str) -> None:
    async def are() -> bool:
        return await _with_status(world, status) == NODES

    await eventually(are, within=20)


@under_weather
async def test_twenty_nodes_are_seen_as_what_they_claim_to_be(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, fleet_in(world) as fleet:
        await _all_are(world, "online")
        listed: Any = await world.call("GET", "/api/v1/nodes?limit=200&sort=name", expect=200)
        assert [node["name"] for node in listed["data"]] == enrolment.names(NODES)
        for node in listed["data"]:
            assert node["labels"] == {"simulated": "true"}
            assert len(node["gpuDevices"]) == 8
            assert node["launchers"] == ["fake"]
        count = fleet.count()
        assert (count.nodes, count.connected, count.reconnects, count.engines) == (NODES, NODES, 0, 0)


@under_weather
async def test_a_cut_takes_every_link_and_all_of_them_come_back(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, fleet_in(world) as fleet:
        fleet.weather.cut()
        await eventually(lambda: fleet.count().connected == 0)
        await _all_are(world, "offline")
        fleet.weather.heal()
        await eventually(lambda: fleet.count().connected == NODES, within=60)
        await _all_are(world, "online")
        assert fleet.count().reconnects == NODES


@under_weather
async def test_cuts_come_by_themselves_when_they_were_asked_for(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, fleet_in(world, faults=Faults(cut=(0.2, 4.0))) as fleet:
        await eventually(lambda: fleet.count().reconnects >= NODES, within=60)


@under_weather
async def test_links_that_flap_are_made_again(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, fleet_in(world, faults=Faults(flap=600)) as fleet:
        await eventually(lambda: fleet.count().reconnects >= 3, within=60)
        # Two a second, never all at once.
        assert fleet.count().connected > 0


@under_weather
async def test_a_slow_link_takes_its_time_in_both_directions(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, fleet_in(world, nodes=1, faults=Faults(slow=0.15)) as fleet:
        listed: Any = await world.call("GET", "/api/v1/nodes", expect=200)
        commands, node_id = world.controller.channel.commands, listed["data"][0]["nodeId"]
        began = time.monotonic()
        answer = await commands.call(node_id, channel.COMMAND_HEALTH_CHECK, channel.HealthCheckCommand(), timeout=20)
        assert answer["status"] == "healthy"
        assert time.monotonic() - began >= 0.3
        assert fleet.count().reconnects == 0


@under_weather
async def test_a_tenth_of_the_clocks_is_wrong_and_the_others_are_right(tmp_path: Path) -> None:
    async with controller() as one:
        settings = Settings(data_dir=tmp_path, controller_url=one.url)
        async with Fleet(settings, tmp_path, faults=Faults(skew=3600)) as fleet:
            for name in enrolment.names(NODES):
                fleet.start(name, TOKEN, nodes=NODES)
            registered = await until(lambda: len(found := one.of(channel.NODE_REGISTER)) == NODES and found, 30)
        stamps = [channel.Envelope.model_validate(message).timestamp.timestamp() for message in registered]
        off = [abs(stamp - time.time()) for stamp in stamps]
        assert sum(3500 < each < 3700 for each in off) == 2
        assert sum(each < 100 for each in off) == NODES - 2


@under_weather
async def test_engines_crash_and_are_started_again(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, fleet_in(world, nodes=2, faults=Faults(crash=1000)) as fleet:
        model_id = await ready_model(world)
        body = {"name": "d", "modelId": model_id, "resources": {"gpuCount": 1}}
        made = await world.call("POST", "/api/v1/deployments", json=body, expect=201)

        async def crashed() -> bool:
            view: Any = await world.call("GET", f"/api/v1/deployments/{made['deploymentId']}", expect=200)
            return any("ended with code 1" in (replica["message"] or "") for replica in view["replicaStatus"])

        await eventually(lambda: bool(fleet.starts()), within=20)
        await eventually(crashed, within=30)
        await world.call("POST", f"/api/v1/deployments/{made['deploymentId']}/stop", json={}, expect=202)


@under_weather
async def test_what_is_not_under_the_weather_is_not_cut(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, fleet_in(world, nodes=1) as fleet:
        fleet.weather.cut()
        async with Client(world.url) as client:
            await client.login("admin", ADMIN_PASSWORD)
        await eventually(lambda: fleet.count().connected == 0)


async def _all_told(world: World) -> bool:
    """Whether what the fleet's arrival has to tell is told."""
    return await world.infra.store.count(OBSERVATIONS, (Where("outboxSince", "ne", None),)) == 0


async def _costs(folder: Path, nodes: int, monkeypatch: pytest.MonkeyPatch) -> tuple[float, int, int]:
    """Messages of a node; store operations while they arrive, and for writing them down."""
    counts = StoreCounts()

    async def open_counted(path: str) -> Store:
        return counts.over(await open_sqlite(path))

    with monkeypatch.context() as patch:
        patch.setattr("aiwm.testing.world.open_sqlite", open_counted)
        async with open_world(folder) as world, fleet_in(world, nodes) as fleet:
            roster = world.controller.nodes._roster
            await eventually(lambda: fleet.count().commands == nodes)
            await roster.flush()
            await eventually(lambda: _all_told(world), within=30)
            before, sent = counts.reads + counts.writes, fleet.count().sent
            await eventually(lambda: fleet.count().sent >= sent + 20 * nodes, within=30)
            arriving, told = counts.reads + counts.writes - before, fleet.count().sent - sent
            await roster.flush()
            return told / nodes, arriving, counts.reads + counts.writes - before - arriving


@under_weather
async def test_a_node_costs_the_same_in_a_fleet_of_five_and_of_fifty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "METRICS_INTERVAL_MS", 100)
    monkeypatch.setattr(channel, "HEARTBEAT_INTERVAL_MS", 300)
    monkeypatch.setattr("aiwm.nodes.roster.FLUSH_SECONDS", 3600.0)
    few = await _costs(tmp_path / "few", 5, monkeypatch)
    many = await _costs(tmp_path / "many", 50, monkeypatch)
    # What arrives is not written one by one: what there is belongs to the relay and other parts, not to nodes.
    assert many[1] <= few[1] + 10
    # What is known of a node is read and written once, however much it said.
    assert few[2] == 2 * 5
    assert many[2] == 2 * 50
    assert many[0] < few[0] * 1.5


async def _simulate(world: World, *words: str, password: str = ADMIN_PASSWORD) -> tuple[int, str, str]:
    """The command itself, in a process: exit code, output, errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiwm", "simulate", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": os.environ["PATH"],
            "AIWM_ADMIN_PASSWORD": password,
            "AIWM_DATA_DIR": str(world.folder / "cli"),
            "XDG_CONFIG_HOME": str(world.folder / "config"),
        },
    )
    try:
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return int(process.returncode or 0), output.decode(), errors.decode()


async def _names(world: World) -> list[str]:
    listed: Any = await world.call("GET", "/api/v1/nodes?limit=200&sort=name", expect=200)
    return [node["name"] for node in listed["data"]]


@under_weather
async def test_the_command_runs_a_fleet_with_every_fault_and_leaves_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        faults = [
            "--flap",
            "100%",
            "--cut",
            "0.5",
            "3",
            "--skew",
            "-90",
            "--slow",
            "20",
            "--crash",
            "50",
            "--seed",
            "7",
        ]
        code, output, errors = await _simulate(
            world, "--url", world.url, "--nodes", str(NODES), "--gpus", "2", "--seconds", "6", *faults
        )
        assert (code, errors) == (0, "")
        table = {line[:30].strip(): line[30:].strip() for line in output.splitlines()}
        assert table["nodes"] == str(NODES)
        assert int(table["reconnects"]) > 0
        assert await _names(world) == []
        assert list((tmp_path / "cli").iterdir()) == []


@under_weather
async def test_kept_nodes_are_taken_up_again_and_removed_when_asked(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        words = ("--url", world.url, "--seconds", "1", "--keep", "--nodes")
        assert (await _simulate(world, *words, "3"))[0] == 0
        first: Any = await world.call("GET", "/api/v1/nodes?sort=name", expect=200)
        assert (await _simulate(world, *words, "4"))[0] == 0
        again: Any = await world.call("GET", "/api/v1/nodes?sort=name", expect=200)
        assert [node["name"] for node in again["data"]] == enrolment.names(4)
        assert [node["nodeId"] for node in again["data"]][:3] == [node["nodeId"] for node in first["data"]]
        assert (await _simulate(world, "--url", world.url, "--remove")) == (0, "", "")
        assert await _names(world) == []


@under_weather
async def test_nodes_of_others_are_not_touched(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.call("POST", "/api/v1/nodes", json={"name": "sim-0002"}, expect=201)
        code, _, errors = await _simulate(world, "--url", world.url, "--nodes", "3", "--seconds", "1")
        assert code == 1
        assert errors == (
            "aiwm simulate: cannot simulate sim-0002: a node without the label simulated=true has that name; "
            "rename or delete it\n"
        )
        assert await _names(world) == ["sim-0002"]
        assert (await _simulate(world, "--url", world.url, "--remove"))[0] == 0
        assert await _names(world) == ["sim-0002"]


@under_weather
async def test_nodes_with_replicas_stay_and_it_says_so(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        model_id = await ready_model(world)
        running = asyncio.create_task(
            _simulate(world, "--url", world.url, "--nodes", "1", "--seconds", "4"), name="simulate"
        )

        async def online() -> bool:
            return await _with_status(world, "online") == 1

        await eventually(online, within=20)
        body = {"name": "d", "modelId": model_id}
        made = await world.call("POST", "/api/v1/deployments", json=body, expect=201)
        code, _, errors = await running
        assert code == 1
        assert "1 of its nodes were not removed: replicas are on them; stop their deployments" in errors
        assert await _names(world) == ["sim-0001"]
        stop = f"/api/v1/deployments/{made['deploymentId']}/stop"
        await world.call("POST", stop, json={"force": True}, expect=202)


@under_weather
async def test_what_it_cannot_do_is_one_sentence(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        key = tmp_path / "key"
        key.write_text("aiwm_nonsense")
        refusals = {
            ("--nodes", "2"): (1, "nobody is signed in; run: aiwm login"),
            ("--url", "http://127.0.0.1:9", "--nodes", "2"): (1, "cannot reach"),
            ("--url", world.url, "--key-file", str(key)): (1, "cannot"),
            ("--url", "ftp://x"): (1, "give the controller's address"),
            ("--url", world.url, "--tls-ca", "/nowhere"): (1, "cannot use AIWM_TLS_CA"),
        }
        for words, (code, said) in refusals.items():
            ended, output, errors = await _simulate(world, *words)
            assert (ended, output) == (code, ""), words
            assert said in errors
            assert errors.count("\n") == 1
        ended, _, errors = await _simulate(world, "--url", world.url, "--nodes", "2", password="wrong")
        assert (ended, errors.count("\n")) == (1, 1)
        assert await _names(world) == []


@under_weather
async def test_it_ends_cleanly_when_it_is_told_to(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aiwm", "simulate", "--url", world.url, "--nodes", str(NODES)),
            stdout=asyncio.subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"],
                "AIWM_ADMIN_PASSWORD": ADMIN_PASSWORD,
                "AIWM_DATA_DIR": str(tmp_path / "c"),
            },
        )
        await _all_are(world, "online")
        process.terminate()
        async with asyncio.timeout(10):
            output, _ = await process.communicate()
        assert process.returncode == 0
        assert b"connected at the end" in output
        assert await _names(world) == []


@under_weather
async def test_it_needs_no_server_on_its_machine() -> None:
    code = "import sys, aiwm.testing.simulate; print(*sys.modules)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}
    )
    output, _ = await process.communicate()
    loaded = set(output.decode().split())
    assert not loaded & {"fastapi", "uvicorn", "pymongo", "bullmq", "aiwm.infra", "aiwm.http", "aiwm.nodes"}
