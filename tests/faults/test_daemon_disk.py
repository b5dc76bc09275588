"""A node whose disk is full, or whose engines write without end: what runs goes on, and all comes right by itself."""

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from tests.daemon_support import (
    QUICK,
    Controller,
    Message,
    TinyEngine,
    controller,
    order,
    running,
    settings_for,
    until,
)
from tests.faults.test_daemon_engines import alive, node, start_daemon

from aiwm.daemon import keeper
from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.protocol import node_channel as channel
from aiwm.protocol.states import EngineName

SIZE = 4 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "aiwm-test", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount one: run as root ({mounted.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """Takes every byte that is left of the small disk, and of no other: never more than that one has."""
    assert disk.is_mount()
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.tell() < SIZE:
                    file.write(b"x" * size)


@contextlib.asynccontextmanager
async def kept_full(disk: Path) -> AsyncIterator[None]:
    """Within it, also what becomes free is taken."""

    async def again() -> None:
        while True:
            fill(disk)
            await asyncio.sleep(0.005)

    filling = asyncio.create_task(again())
    try:
        yield
    finally:
        filling.cancel()
        await asyncio.wait([filling])
    (disk / "filler").unlink()


def engine_of(disk: Path, replica: str) -> tuple[int, int]:
    state = state_at(disk / "node/replicas" / replica)
    return state["pid"], state["startTime"]


async def ask(one: Controller, type_: str, data: Message) -> Message:
    return await one.result(await one.command(type_, data))


async def test_on_a_full_disk_deploys_are_refused_engines_go_on_and_all_recovers(small_disk: Path) -> None:
    launcher = ProcessLauncher({EngineName.TRITON: TinyEngine()}, log_bytes=100_000)
    async with (
        controller() as one,
        running(Daemon(settings_for(one, small_disk), launcher=launcher, policy=QUICK)) as daemon,
    ):
        await three_engines(one)
        kept, crashed = engine_of(small_disk, "replica-a"), engine_of(small_disk, "replica-b")
        fill(small_disk)
        refused = await ask(one, "command.deploy", order(replica_id="replica-d").to_wire())
        assert refused["error"]["code"] == "RESOURCE_EXHAUSTED"
        os.kill(crashed[0], 9)
        await until(lambda: any("SIGKILL" in each for each in messages(one, "replica-b")))
        async with kept_full(small_disk):
            if (again := engine_of(small_disk, "replica-b")) != crashed and alive(again):
                os.kill(again[0], 9)
            await until(lambda: any("No space left" in each for each in messages(one, "replica-b")))
            await until(lambda: conditions(daemon) == ["DiskFull"])
            assert "failed" not in one.states("replica-b")
            stopped = await ask(one, "command.stop", {"deploymentId": "replica-c", "graceSeconds": 2})
            assert stopped["status"] == "success"
            assert alive(kept)
        await until(lambda: one.states("replica-b")[-1] == "running", 20)
        await until(lambda: conditions(daemon) == [])
        assert not (small_disk / "node/replicas/replica-d/ledger.json").exists(), "it was refused"
        answer = await ask(one, "command.deploy", order(replica_id="replica-d", deployment_id="replica-d").to_wire())
        assert answer["status"] == "success"
        assert engine_of(small_disk, "replica-a") == kept
        for name in ("replica-a", "replica-b", "replica-d"):
            await ask(one, "command.stop", {"deploymentId": name, "graceSeconds": 2})
        assert list((small_disk / "node/replicas").iterdir()) == []


async def test_a_daemon_that_begins_on_a_full_disk_finds_what_runs(small_disk: Path) -> None:
    async with controller() as one:
        first = await start_daemon(one, small_disk)
        await until(lambda: one.of(channel.NODE_REGISTER))
        await three_engines(one)
        engines = {name: engine_of(small_disk, name) for name in REPLICAS}
        async with kept_full(small_disk):
            first.kill()
            await first.wait()
            one.messages.clear()
            second = await start_daemon(one, small_disk)
            register = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
            found = sorted((each["replicaId"], each["state"], each["restarts"]) for each in register["replicas"])
            assert found == [(name, "running", 0) for name in REPLICAS]
            assert {name: engine_of(small_disk, name) for name in REPLICAS} == engines
            for name in REPLICAS:
                assert alive(engines[name])
                await ask(one, "command.stop", {"deploymentId": name, "graceSeconds": 2})
                assert not alive(engines[name])
        assert list((small_disk / "node/replicas").iterdir()) == []
        second.terminate()
        await second.wait()


REPLICAS = ("replica-a", "replica-b", "replica-c")


async def three_engines(one: Controller) -> None:
    await until(lambda: one.of(channel.NODE_REGISTER))
    for name in REPLICAS:
        answer = await ask(one, "command.deploy", order(replica_id=name, deployment_id=name).to_wire())
        assert answer["status"] == "success", answer


def messages(one: Controller, replica: str) -> list[str]:
    reports = [each["data"] for each in one.of(channel.DEPLOYMENT_STATUS)]
    return [each.get("message", "") for each in reports if each["replicaId"] == replica]


def conditions(daemon: Daemon) -> list[str]:
    """What its next heartbeat will say."""
    return [each.type for each in daemon._supervisor.conditions()]


FLOOD = """
import threading, sys
def shout():
    block = "x" * 1000 + "\\n"
    while True:
        sys.stdout.write(block * 64)
threading.Thread(target=shout, daemon=True).start()
"""


async def test_an_engine_that_writes_without_end_neither_fills_the_disk_nor_stops_nor_eats_memory(
    tmp_path: Path,
) -> None:
    flood = FLOOD.strip()
    async with controller() as one, node(one, tmp_path, TinyEngine(flood), log_bytes=2**20, log_files=3):
        answer = await ask(one, "command.deploy", order().to_wire())
        assert answer["status"] == "success", answer
        folder = tmp_path / "node/replicas/replica-1"
        state = state_at(folder)
        began = time.monotonic()
        await until(lambda: state_at(folder)["logBase"] > 200 * 2**20, 60)
        rate = 200 / (time.monotonic() - began)
        assert log_bytes(folder) <= 3 * 2**20
        assert psutil.Process(state["keeperPid"]).memory_info().rss < 64 * 2**20
        async with aiohttp.ClientSession() as http:
            for _ in range(5):
                async with asyncio.timeout(5), http.get(f"{answer['result']['endpoint']}/ready") as ready:
                    assert ready.status == 200
        assert rate > 5, f"{rate:.0f} MiB/s"
        last = await ask(one, "command.logs", {"deploymentId": "deploy-1", "replicaId": "replica-1", "tail": 3})
        assert set(last["result"]["text"]) == {"x", "\n"}


def log_bytes(folder: Path) -> int:
    """What an engine's log takes; a file that is being rotated away takes nothing under its old name."""
    total = 0
    for path in folder.glob(f"{keeper.LOG}*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def state_at(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / keeper.STATE).read_text())
    return content
