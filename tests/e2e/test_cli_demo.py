"""`aiwm demo`: goes well on a machine with Triton, and leaves nothing behind, whether it ends or is ended."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from tests.http_support import until

from aiwm.daemon.engines.triton_install import find_binary

_SECONDS = 120


@pytest.fixture(autouse=True)
def _triton() -> None:
    if find_binary("") is None:
        pytest.skip("no tritonserver; install it with: pip install 'aiwm[triton]'")


async def demo(folder: Path, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aiwm",
        "demo",
        *arguments,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **settings},
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


def broken_engine(binary: Path) -> None:
    binary.write_text("#!/bin/sh\nexit 3\n")
    binary.chmod(0o755)


def left_running(folder: Path) -> list[str]:
    """Command lines that still name the demo's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if str(folder) in line and process.status() != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


async def test_the_demo_goes_its_road_and_leaves_nothing(tmp_path: Path) -> None:
    process = await demo(tmp_path)
    async with asyncio.timeout(_SECONDS):
        output, _ = await process.communicate()
    story = output.decode()
    assert process.returncode == 0, story
    for event in (
        "node.online",
        "model.upload.completed",
        "model.deployment.started",
        "model.deployment.running",
        "model.deployment.stopped",
    ):
        assert f"~ live: {event}" in story
    assert "What to try next" in story
    assert names(tmp_path) == []
    assert left_running(tmp_path) == []


async def test_ctrl_c_ends_the_demo_and_keeps_only_its_logs(tmp_path: Path) -> None:
    process = await demo(tmp_path)
    assert process.stdout is not None
    seen = b""
    async with asyncio.timeout(_SECONDS):
        while b"model.deployment.started" not in seen:
            line = await process.stdout.readline()
            assert line, seen.decode()
            seen += line
        process.send_signal(signal.SIGINT)
        rest = await process.stdout.read()
        assert await process.wait() == 1
    (kept,) = names(tmp_path)
    assert f"its logs are in {tmp_path / kept}/logs" in rest.decode()
    assert names(tmp_path / kept) == ["logs"]
    assert left_running(tmp_path) == []


async def test_an_engine_that_is_not_here_ends_the_demo_with_what_to_do(tmp_path: Path) -> None:
    process = await demo(tmp_path, "--engine", "vllm", PATH="/usr/bin:/bin")
    async with asyncio.timeout(_SECONDS):
        output, _ = await process.communicate()
    assert process.returncode == 1
    assert "put its `vllm` command on PATH, or set AIWM_VLLM_SERVER" in " ".join(output.decode().split())


async def test_an_engine_that_does_not_start_fails_the_demo_with_its_reason(tmp_path: Path) -> None:
    binary, scratch = tmp_path / "tritonserver", tmp_path / "scratch"
    broken_engine(binary)
    scratch.mkdir()
    process = await demo(scratch, AIWM_TRITON_SERVER=str(binary))
    async with asyncio.timeout(_SECONDS):
        output, _ = await process.communicate()
    story = output.decode()
    assert process.returncode == 1, story
    assert "~ live: model.deployment.failed" in story
    assert "error: cannot run deployment digits-demo: " in story
    (kept,) = names(scratch)
    logs = names(scratch / kept / "logs")
    assert {"up.log", "node.log", "data-logs-controller.log"} <= set(logs)
    assert left_running(scratch) == []


async def test_a_demo_that_is_killed_takes_everything_along(tmp_path: Path) -> None:
    process = await demo(tmp_path)
    assert process.stdout is not None
    async with asyncio.timeout(_SECONDS):
        while b"model.deployment.running" not in (line := await process.stdout.readline()):
            assert line
        process.kill()
        await process.wait()
    await until(lambda: left_running(tmp_path) == [], "nothing of the demo runs", seconds=30)
