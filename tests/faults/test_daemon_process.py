"""`python -m aiwm.daemon` as an operator meets it: it ends cleanly and refuses what cannot be."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.daemon_support import TOKEN, Controller, controller, order, until
from tests.faults.test_daemon_engines import alive, identity, start_daemon, stop

from aiwm.protocol import node_channel as channel


async def start(one: Controller, data_dir: Path, **environment: str) -> asyncio.subprocess.Process:
    """The daemon as a process, its log on a pipe."""
    settings = {"AIWM_CONTROLLER_URL": one.url, "AIWM_NODE_TOKEN": TOKEN, "AIWM_DATA_DIR": str(data_dir)}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aiwm.daemon",
        env={"PATH": os.environ["PATH"], **settings, **environment},
        cwd=data_dir,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Its exit code and what it wrote."""
    async with asyncio.timeout(10):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_it_ends_with_0_on_a_signal_and_never_says_its_token(tmp_path: Path) -> None:
    async with controller() as one:
        for number in (signal.SIGINT, signal.SIGTERM):
            one.messages.clear()
            process = await start(one, tmp_path, AIWM_LOG_LEVEL="DEBUG")
            await until(lambda: one.of(channel.NODE_REGISTER))
            process.send_signal(number)
            code, said = await ended(process)
            assert code == 0, said
            assert TOKEN not in said
            assert '"service": "node"' in said


async def test_a_second_daemon_on_the_same_data_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    async with controller() as one:
        first = await start(one, tmp_path)
        try:
            await until(lambda: one.of(channel.NODE_REGISTER))
            code, said = await ended(await start(one, tmp_path))
            assert (code, said.count("\n")) == (2, 1)
            assert "another node daemon uses the data folder" in said
        finally:
            first.terminate()
            await ended(first)


async def test_a_wrong_setting_is_said_in_one_line(tmp_path: Path) -> None:
    async with controller() as one:
        code, said = await ended(await start(one, tmp_path, AIWM_NODE_TOKN="x"))
    assert (code, said.count("\n")) == (2, 1)
    assert "the nearest valid one is AIWM_NODE_TOKEN" in said


async def test_engines_stay_when_the_daemon_is_told_to_end(tmp_path: Path) -> None:
    async with controller() as one:
        daemon = await start_daemon(one, tmp_path)
        await until(lambda: one.of(channel.NODE_REGISTER))
        await one.result(await one.command("command.deploy", order().to_wire()))
        engine = identity(tmp_path)
        daemon.terminate()
        await daemon.wait()
        assert alive(engine)
        one.messages.clear()
        again = await start_daemon(one, tmp_path)
        await until(lambda: one.of(channel.NODE_REGISTER))
        assert identity(tmp_path) == engine
        await stop(one)
        again.terminate()
        await again.wait()
        assert not alive(engine)


async def test_engines_on_a_lifeline_end_with_the_daemon_and_come_back_with_it(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        async with controller() as one:
            daemon = await start_daemon(one, tmp_path, lifeline=reader)
            await until(lambda: one.of(channel.NODE_REGISTER))
            await one.result(await one.command("command.deploy", order().to_wire()))
            engine = identity(tmp_path)
            daemon.terminate()
            async with asyncio.timeout(10):
                await daemon.wait()
            assert not alive(engine)
            one.messages.clear()
            again = await start_daemon(one, tmp_path, lifeline=reader)
            await until(lambda: "running" in one.states("replica-1"))
            last = one.of(channel.DEPLOYMENT_STATUS)[-1]["data"]
            assert last["restarts"] == 0
            assert identity(tmp_path) != engine
            again.terminate()
            await again.wait()
    finally:
        os.close(reader)
        os.close(writer)
