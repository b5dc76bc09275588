"""Torn, lost and foreign state files: the engine is found again or ended, and never are there two for one replica."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.daemon_support import Controller, TinyEngine, controller, order, until
from tests.faults.test_daemon_engines import alive, deploy, identity, start_daemon, stop

from aiwm.daemon import keeper
from aiwm.daemon.engines.base import EnginePlan
from aiwm.daemon.launchers.port import Ended, Running
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.protocol import node_channel as channel
from aiwm.protocol.states import EngineName

SLEEPER = EnginePlan(argv=("/bin/sleep", "1000"), environment={}, ready=())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A replica's folder; nothing may run in it afterwards."""
    one = tmp_path / "replica-1"
    one.mkdir()
    yield one
    assert engines_of(one) == []


def engines_of(folder: Path) -> list[psutil.Process]:
    """Every process that runs for the folder, keepers aside: whatever files say."""
    mark = f"ENGINE_FOLDER={folder}".encode()
    found = []
    for process in psutil.process_iter():
        try:
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(process)
        except OSError:
            continue
    return found


def launcher() -> ProcessLauncher:
    """As a daemon that has just begun has it: it knows of nothing but what it finds."""
    return ProcessLauncher({EngineName.TRITON: TinyEngine()})


async def test_a_keeper_runs_what_an_older_daemon_asks_for(folder: Path) -> None:
    """Between an upgrade and its own restart a daemon begins keepers of the new release."""
    await launcher().start(folder, SLEEPER)
    await launcher().stop(folder, 5)
    spec = json.loads((folder / "spec.json").read_text())
    for name in ("memory", "rlimits", "ram"):
        del spec[name]
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / keeper.STATE).unlink()
    process = await another_keeper(folder)
    await until(lambda: isinstance(launcher().status(folder), Running))
    await launcher().stop(folder, 5)
    await process.wait()


async def another_keeper(folder: Path) -> asyncio.subprocess.Process:
    """A keeper for what was last started in the folder, as a daemon would begin one."""
    command = (sys.executable, "-I", "-S", keeper.__file__, str(folder / "spec.json"))
    return await asyncio.create_subprocess_exec(*command, start_new_session=True)


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def test_a_state_cut_at_any_byte_or_gone_still_names_the_very_same_engine(folder: Path) -> None:
    started = await launcher().start(folder, SLEEPER)
    path = folder / keeper.STATE
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        assert launcher().status(folder) == started, whole[:cut]
    for junk in (b"[]", b"null", b'{"ended": false}', b"\xff", whole.replace(b'"pid": ', b'"pid": "x')):
        path.write_bytes(junk)
        assert launcher().status(folder) == started, junk
    path.unlink()
    assert launcher().status(folder) == started
    await launcher().stop(folder, 5)
    assert not alive((started.pid, started.start_time))


async def test_a_start_in_a_folder_where_an_unknown_engine_runs_ends_that_one_first(folder: Path) -> None:
    first = await launcher().start(folder, SLEEPER)
    (folder / keeper.STATE).unlink()
    second = await launcher().start(folder, SLEEPER)
    assert not alive((first.pid, first.start_time))
    assert [each.pid for each in engines_of(folder)] == [second.pid]
    await launcher().stop(folder, 5)


async def test_of_keepers_that_begin_at_once_one_keeps_and_the_others_start_nothing(folder: Path) -> None:
    await launcher().start(folder, SLEEPER)
    others = [await another_keeper(folder) for _ in range(3)]
    async with asyncio.timeout(10):
        assert [await each.wait() for each in others] == [keeper.LOCKED] * 3
    assert len(engines_of(folder)) == 1
    await launcher().stop(folder, 5)


async def test_a_keeper_of_a_daemon_killed_in_the_middle_of_a_start_makes_way(folder: Path) -> None:
    await launcher().start(folder, SLEEPER)
    await launcher().stop(folder, 5)
    # It has begun, and has neither its lock nor anything on disk yet.
    orphan = await another_keeper(folder)
    started = await launcher().start(folder, SLEEPER)
    await until(lambda: [each.pid for each in engines_of(folder)] == [started.pid])
    assert launcher().status(folder) == started
    await launcher().stop(folder, 5)
    await orphan.wait()


async def test_what_a_killed_engine_had_started_is_ended_before_the_next_begins(folder: Path) -> None:
    child = (
        "import subprocess, time; subprocess.Popen(['/bin/sleep', '1000'], start_new_session=True); time.sleep(1000)"
    )
    plan = EnginePlan(argv=(sys.executable, "-I", "-S", "-c", child), environment={}, ready=())
    one = launcher()
    first = await one.start(folder, plan)
    await until(lambda: len(engines_of(folder)) == 2)
    os.kill(json.loads((folder / keeper.STATE).read_text())["keeperPid"], signal.SIGKILL)
    await until(lambda: isinstance(one.status(folder), Ended))
    await until(lambda: len(engines_of(folder)) == 1)
    second = await one.start(folder, SLEEPER)
    assert [each.pid for each in engines_of(folder)] == [second.pid] != [first.pid]
    await one.stop(folder, 5)


async def test_a_state_of_another_boot_names_nobody_and_nobody_is_killed(folder: Path) -> None:
    bystander = await asyncio.create_subprocess_exec("/bin/sleep", "1000", process_group=0)
    try:
        started = keeper.start_time(bystander.pid)
        state = {
            "bootId": "another boot",
            "keeperPid": bystander.pid,
            "keeperStartTime": started,
            "pid": bystander.pid,
            "startTime": started,
            "ended": False,
            "exitCode": None,
            "signal": None,
            "requested": None,
            "logBase": 0,
        }
        (folder / keeper.STATE).write_text(json.dumps(state))
        status = launcher().status(folder)
        assert isinstance(status, Ended)
        # A machine's restart is no failure of the engine's.
        assert status.requested
        await launcher().stop(folder, 0)
        running = await launcher().start(folder, SLEEPER)
        assert bystander.returncode is None
        assert running.pid != bystander.pid
        await launcher().stop(folder, 5)
    finally:
        bystander.kill()
        await bystander.wait()


async def test_an_engine_is_a_likelier_victim_of_memory_shortage_than_its_keeper(folder: Path) -> None:
    started = await launcher().start(folder, SLEEPER)
    keeping = json.loads((folder / keeper.STATE).read_text())["keeperPid"]
    assert oom_score(started.pid) == keeper.ENGINE_OOM_SCORE
    assert oom_score(keeping) == oom_score(os.getpid())
    await launcher().stop(folder, 5)


async def killed(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


def files(data_dir: Path) -> Path:
    return data_dir / "node/replicas/replica-1"


async def adopted(one: Controller, data_dir: Path, version: str = "") -> dict[str, Any]:
    """What the next daemon, of that version, registers; it is killed once it says that the replica runs."""
    one.messages.clear()
    daemon = await start_daemon(one, data_dir, version=version)
    try:
        register: dict[str, Any] = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
        async with asyncio.timeout(10):
            while await replica_state(one) != "running":  # noqa: ASYNC110 - a fact of another process
                await asyncio.sleep(0.05)
    finally:
        await killed(daemon)
    return register


async def replica_state(one: Controller) -> str:
    answer = await one.result(await one.command("command.healthCheck", {}))
    return str(answer["result"]["replicas"][0]["state"])


async def test_without_any_state_file_the_next_daemon_still_adopts_the_engine(tmp_path: Path) -> None:
    async with controller() as one:
        first = await start_daemon(one, tmp_path)
        await deploy(one)
        engine = identity(tmp_path)
        await killed(first)
        (files(tmp_path) / keeper.STATE).unlink()
        register = await adopted(one, tmp_path)
        assert [(each["state"], each["restarts"]) for each in register["replicas"]] == [("running", 0)]
        assert alive(engine)
        assert [each.pid for each in engines_of(files(tmp_path))] == [engine[0]]
        await ended_by_stop(one, tmp_path)


async def ended_by_stop(one: Controller, data_dir: Path) -> None:
    one.messages.clear()
    last = await start_daemon(one, data_dir)
    await until(lambda: one.of(channel.NODE_REGISTER))
    await stop(one)
    await killed(last)
    assert engines_of(files(data_dir)) == []


async def test_a_daemon_of_another_version_adopts_what_the_one_before_started(tmp_path: Path) -> None:
    async with controller() as one:
        first = await start_daemon(one, tmp_path)
        await deploy(one)
        engine = identity(tmp_path)
        await killed(first)
        register = await adopted(one, tmp_path, "99.0.0")
        assert register["daemonVersion"] == "99.0.0"
        assert [(each["state"], each["restarts"]) for each in register["replicas"]] == [("running", 0)]
        assert identity(tmp_path) == engine
        assert alive(engine)
        await ended_by_stop(one, tmp_path)


async def test_a_torn_ledger_is_read_from_its_copy_and_the_engine_stays(tmp_path: Path) -> None:
    async with controller() as one:
        first = await start_daemon(one, tmp_path)
        await deploy(one)
        engine = identity(tmp_path)
        await killed(first)
        (files(tmp_path) / "ledger.json").write_bytes((files(tmp_path) / "ledger.json").read_bytes()[:100])
        register = await adopted(one, tmp_path)
        assert [each["replicaId"] for each in register["replicas"]] == ["replica-1"]
        assert register["conditions"] == []
        assert alive(engine)
        await ended_by_stop(one, tmp_path)


async def test_without_a_readable_ledger_the_engine_is_left_running_said_so_and_never_doubled(tmp_path: Path) -> None:
    async with controller() as one:
        first = await start_daemon(one, tmp_path)
        await deploy(one)
        engine = identity(tmp_path)
        await killed(first)
        for name in ("ledger.json", "ledger.copy.json"):
            (files(tmp_path) / name).write_bytes(b"{")
        (tmp_path / "node/tombstones.json").write_bytes(b"{")
        one.messages.clear()
        second = await start_daemon(one, tmp_path)
        register = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
        (condition,) = register["conditions"]
        assert condition["type"] == "LedgerUnreadable"
        assert f"its engine, pid {engine[0]}, is left running" in condition["message"]
        assert register["replicas"] == []
        assert alive(engine)
        # The controller misses the replica and orders it anew: the one that ran makes way.
        await deploy(one)
        assert not alive(engine)
        assert [each.pid for each in engines_of(files(tmp_path))] == [identity(tmp_path)[0]]
        await stop(one)
        await killed(second)


async def test_a_stop_reaches_an_engine_whose_ledger_cannot_be_read(tmp_path: Path) -> None:
    async with controller() as one:
        first = await start_daemon(one, tmp_path)
        await deploy(one)
        engine = identity(tmp_path)
        await killed(first)
        for path in files(tmp_path).glob("ledger*.json"):
            path.unlink()
        one.messages.clear()
        second = await start_daemon(one, tmp_path)
        await until(lambda: one.of(channel.NODE_REGISTER))
        assert alive(engine)
        order_ = {"deploymentId": "deploy-1", "replicaId": "replica-1", "generation": 1}
        await one.result(await one.command("command.stop", order_))
        assert not alive(engine)
        assert not files(tmp_path).exists()
        await killed(second)


async def test_a_full_inventory_of_a_killed_daemon_survives_kills_in_a_row(tmp_path: Path) -> None:
    async with controller() as one:
        daemon = await start_daemon(one, tmp_path)
        await until(lambda: one.of(channel.NODE_REGISTER))
        for number in range(3):
            sent = await one.command("command.deploy", order(replica_id=f"replica-{number}").to_wire())
            assert (await one.result(sent))["status"] == "success"
        before = {path.parent.name: keeping(path) for path in (tmp_path / "node/replicas").glob(f"*/{keeper.STATE}")}
        for _ in range(3):
            await killed(daemon)
            one.messages.clear()
            daemon = await start_daemon(one, tmp_path)
            register = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
            assert sorted((each["replicaId"], each["state"], each["restarts"]) for each in register["replicas"]) == [
                (f"replica-{number}", "running", 0) for number in range(3)
            ]
        after = {path.parent.name: keeping(path) for path in (tmp_path / "node/replicas").glob(f"*/{keeper.STATE}")}
        assert after == before
        await one.result(await one.command("command.stop", {"deploymentId": "deploy-1", "graceSeconds": 2}))
        await killed(daemon)


def keeping(path: Path) -> tuple[int, int]:
    state = json.loads(path.read_text())
    return state["pid"], state["startTime"]


async def test_an_engine_starts_where_nothing_can_be_written_and_its_state_follows(folder: Path) -> None:
    # A folder in its place stands for a disk that takes nothing.
    (folder / keeper.STATE).mkdir()
    started = await launcher().start(folder, SLEEPER)
    assert alive((started.pid, started.start_time))
    assert launcher().status(folder) == started
    (folder / keeper.STATE).rmdir()
    await until(lambda: (folder / keeper.STATE).is_file())
    state = json.loads((folder / keeper.STATE).read_text())
    assert (state["pid"], state["startTime"]) == (started.pid, started.start_time)
    await launcher().stop(folder, 5)
