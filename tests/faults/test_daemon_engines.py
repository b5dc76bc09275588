"""Engines and their keepers when something is killed: what must survive does, what must end ends, nothing doubles."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.daemon_support import QUICK, TOKEN, Controller, TinyEngine, controller, order, running, settings_for, until

from aiwm.daemon import keeper
from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.base import Ports
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.protocol import node_channel as channel
from aiwm.protocol.states import EngineName

CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
import aiwm.daemon.daemon
from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.kit.settings import Settings
from aiwm.protocol.states import EngineName
from tests.daemon_support import QUICK, TOKEN, TinyEngine

aiwm.daemon.daemon.__version__ = os.environ["AIWM_TEST_VERSION"] or aiwm.__version__

async def main():
    settings = Settings(data_dir=Path(sys.argv[1]), controller_url=sys.argv[2], node_token=TOKEN)
    lifeline = int(sys.argv[3]) if len(sys.argv) > 3 else None
    launcher = ProcessLauncher({EngineName.TRITON: TinyEngine()}, lifeline=lifeline)
    daemon = Daemon(settings, launcher=launcher, policy=QUICK, lifeline=lifeline)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, daemon.stop)
    await daemon.run()

asyncio.run(main())
"""


async def start_daemon(
    one: Controller, data_dir: Path, *, lifeline: int | None = None, version: str = ""
) -> asyncio.subprocess.Process:
    """A daemon in a process of its own, with tiny engines; of `version`, where one is given."""
    arguments = [str(data_dir), one.url] + ([] if lifeline is None else [str(lifeline)])
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        *arguments,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "AIWM_TEST_VERSION": version},
        pass_fds=() if lifeline is None else (lifeline,),
    )


def state_of(data_dir: Path) -> dict[str, Any]:
    """What the keeper of `replica-1` has on disk."""
    content: dict[str, Any] = json.loads((data_dir / "node/replicas/replica-1" / keeper.STATE).read_text())
    return content


def identity(data_dir: Path) -> tuple[int, int]:
    """Pid and kernel start time of the engine."""
    state = state_of(data_dir)
    return state["pid"], state["startTime"]


def alive(engine: tuple[int, int]) -> bool:
    return keeper.start_time(engine[0]) == engine[1]


async def deploy(one: Controller, **changes: Any) -> None:
    await until(lambda: one.of(channel.NODE_REGISTER))
    result = await one.result(await one.command("command.deploy", order(**changes).to_wire()))
    assert result["status"] == "success", result


async def stop(one: Controller) -> None:
    await one.result(await one.command("command.stop", {"deploymentId": "deploy-1", "graceSeconds": 2}))


@asynccontextmanager
async def node(one: Controller, data_dir: Path, engine: TinyEngine, **launching: Any) -> AsyncIterator[Daemon]:
    """A daemon in this process with process engines; the deployment is stopped at the end."""
    launcher = ProcessLauncher({EngineName.TRITON: engine}, **launching)
    async with running(Daemon(settings_for(one, data_dir), launcher=launcher, policy=QUICK)) as daemon:
        await until(lambda: one.of(channel.NODE_REGISTER))
        yield daemon
        await stop(one)


async def test_a_killed_daemon_finds_the_very_same_engine_again(tmp_path: Path) -> None:
    async with controller() as one:
        first = await start_daemon(one, tmp_path)
        try:
            await deploy(one)
            engine = identity(tmp_path)
        finally:
            first.kill()
            await first.wait()
        assert alive(engine)
        one.messages.clear()
        second = await start_daemon(one, tmp_path)
        try:
            register = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
            assert [(each["replicaId"], each["state"]) for each in register["replicas"]] == [("replica-1", "running")]
            assert register["replicas"][0]["restarts"] == 0
            assert identity(tmp_path) == engine
            assert alive(engine)
            await stop(one)
            await until(lambda: not alive(engine))
        finally:
            second.terminate()
            await second.wait()


async def test_an_engine_that_ended_while_the_daemon_was_away_is_started_again(tmp_path: Path) -> None:
    async with controller() as one:
        first = await start_daemon(one, tmp_path)
        try:
            await deploy(one)
            engine = identity(tmp_path)
        finally:
            first.kill()
            await first.wait()
        os.kill(engine[0], signal.SIGKILL)
        await until(lambda: state_of(tmp_path)["ended"])
        one.messages.clear()
        second = await start_daemon(one, tmp_path)
        try:
            await until(lambda: "running" in one.states("replica-1"))
            assert identity(tmp_path) != engine
            told = [each["data"]["message"] for each in one.of(channel.DEPLOYMENT_STATUS)]
            assert any("was killed by signal 9 (SIGKILL)" in each for each in told)
            await stop(one)
        finally:
            second.terminate()
            await second.wait()


async def test_a_pid_that_belongs_to_somebody_else_by_now_is_not_adopted(tmp_path: Path) -> None:
    async with controller() as one:
        async with node(one, tmp_path, TinyEngine()):
            await deploy(one)
            state = state_of(tmp_path)
        folder = tmp_path / "node/replicas/replica-1"
        folder.mkdir()
        stranger = state | {"keeperPid": os.getpid(), "pid": os.getpid(), "ended": False}
        (folder / keeper.STATE).write_text(json.dumps(stranger))
        launcher = ProcessLauncher({EngineName.TRITON: TinyEngine()})
        status = launcher.status(folder)
        assert "keeper" in getattr(status, "reason", "")
        await launcher.stop(folder, 0)


async def test_a_killed_keeper_takes_its_engine_along_and_both_come_back(tmp_path: Path) -> None:
    async with controller() as one, node(one, tmp_path, TinyEngine()):
        await deploy(one)
        engine = identity(tmp_path)
        os.kill(state_of(tmp_path)["keeperPid"], signal.SIGKILL)
        await until(lambda: one.states("replica-1").count("running") == 2)
        assert not alive(engine)
        told = [each["data"]["message"] for each in one.of(channel.DEPLOYMENT_STATUS)]
        assert any("keeper" in each for each in told)


async def test_a_flood_of_output_does_not_fill_the_disk_and_its_end_can_be_read(tmp_path: Path) -> None:
    flood = "for number in range(200_000): print('line', number)"
    async with controller() as one, node(one, tmp_path, TinyEngine(flood), log_bytes=100_000, log_files=3):
        await deploy(one)
        folder = tmp_path / "node/replicas/replica-1"
        sizes = [path.stat().st_size for path in folder.glob(f"{keeper.LOG}*")]
        assert len(sizes) <= 3
        assert sum(sizes) <= 300_000
        asked = {"deploymentId": "deploy-1", "replicaId": "replica-1", "tail": 2}
        await until(lambda: state_of(tmp_path)["logBase"] > 1_000_000)
        answer = (await one.result(await one.command("command.logs", asked)))["result"]
        assert answer["text"].splitlines()[-1].startswith("line 199")
        later = {**asked, "offset": answer["nextOffset"]}
        again = (await one.result(await one.command("command.logs", later)))["result"]
        assert again["nextOffset"] >= answer["nextOffset"]


async def test_an_engine_that_ends_while_it_loads_fails_with_its_own_words(tmp_path: Path) -> None:
    async with controller() as one, node(one, tmp_path, TinyEngine("raise ValueError('no weights')")):
        result = await one.result(await one.command("command.deploy", order().to_wire()))
        assert result["error"]["code"] == "CONTAINER_START_FAILED"
        assert "ended with code 1: ValueError: no weights" in result["error"]["message"]
        assert one.states("replica-1") == ["preparing", "starting", "failed"]


async def test_an_engine_that_ignores_the_order_to_end_is_ended_with_all_its_children(tmp_path: Path) -> None:
    deaf = "import signal, subprocess; signal.signal(15, signal.SIG_IGN); child = subprocess.Popen(['sleep', '1000'])"
    async with controller() as one:
        async with node(one, tmp_path, TinyEngine(deaf)):
            await deploy(one)
            engine = psutil.Process(identity(tmp_path)[0])
            family = [engine, *engine.children(recursive=True)]
            assert len(family) == 2
            sent = {"deploymentId": "deploy-1", "graceSeconds": 0.2}
            await one.result(await one.command("command.stop", sent))
        assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    class Missing(TinyEngine):
        def prepare(self, *arguments: Any) -> Any:
            plan = super().prepare(*arguments)
            return type(plan)(argv=("/no/such/engine",), environment=plan.environment, ready=plan.ready)

    async with controller() as one, node(one, tmp_path, Missing()):
        result = await one.result(await one.command("command.deploy", order().to_wire()))
        assert result["error"]["code"] == "CONTAINER_START_FAILED"
        assert "/no/such/engine: No such file or directory" in result["error"]["message"]


@pytest.mark.parametrize("kill_daemon_first", [True, False])
async def test_when_the_lifelines_last_writer_is_gone_daemon_and_engine_end(
    tmp_path: Path, *, kill_daemon_first: bool
) -> None:
    reader, writer = os.pipe()
    try:
        async with controller() as one:
            daemon = await start_daemon(one, tmp_path, lifeline=reader)
            os.close(reader)
            try:
                await deploy(one)
                engine = identity(tmp_path)
                if kill_daemon_first:
                    daemon.kill()
                    await daemon.wait()
                    assert alive(engine)
                os.close(writer)
                writer = -1
                await until(lambda: not alive(engine))
                async with asyncio.timeout(8):
                    await daemon.wait()
                await until(lambda: keeper.start_time(state_of(tmp_path)["keeperPid"]) is None)
            finally:
                if daemon.returncode is None:
                    daemon.kill()
                await daemon.wait()
    finally:
        if writer >= 0:
            os.close(writer)


async def test_the_daemons_secrets_stay_out_of_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_TOKEN", TOKEN)
    show = "print(sorted(os.environ), flush=True)"
    async with controller() as one, node(one, tmp_path, TinyEngine(show)):
        await deploy(one, environment_variables={"APP_MINE": "1"})
        asked = {"deploymentId": "deploy-1", "replicaId": "replica-1"}
        text = (await one.result(await one.command("command.logs", asked)))["result"]["text"]
        assert "'HOME', 'LANG'," in text
        assert "'APP_MINE'" in text
        assert "TOKEN" not in text


async def test_a_port_that_is_always_taken_is_the_stated_reason(tmp_path: Path) -> None:
    async with controller() as one:
        # The program that has the port answers like an engine: its answers must not be taken for the engine's.
        other = await asyncio.start_server(_answer_200, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        daemon = Daemon(
            settings_for(one, tmp_path),
            launcher=ProcessLauncher({EngineName.TRITON: TinyEngine("import time; time.sleep(0.3)")}),
            policy=QUICK,
            choose=lambda _: Ports(port, port, port),
        )
        async with running(daemon):
            await until(lambda: one.of(channel.NODE_REGISTER))
            result = await one.result(await one.command("command.deploy", order().to_wire()))
            assert result["error"]["code"] == "CONTAINER_START_FAILED"
            assert f"port {port} is already taken on the node" in result["error"]["message"]
            assert "running" not in one.states("replica-1")
            await stop(one)
        other.close()
        await other.wait_closed()


async def _answer_200(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


async def test_a_newer_generation_replaces_the_engine(tmp_path: Path) -> None:
    async with controller() as one, node(one, tmp_path, TinyEngine()):
        await deploy(one)
        before = identity(tmp_path)
        await deploy(one, generation=2)
        assert not alive(before)
        assert alive(identity(tmp_path))
        assert one.of(channel.DEPLOYMENT_STATUS)[-1]["data"]["generation"] == 2
