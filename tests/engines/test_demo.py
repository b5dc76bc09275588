"""`aiwm demo --engine vllm`: the same road, with the real vLLM."""

import asyncio
from pathlib import Path

from tests.e2e.test_cli_demo import demo, left_running, names
from tests.engines.vllm import vllm_needed

_SECONDS = 400


async def test_the_demo_goes_its_road_with_vllm_too(tmp_path: Path) -> None:
    process = await demo(tmp_path, "--engine", "vllm", AIWM_VLLM_SERVER=str(vllm_needed() / "bin/vllm"))
    async with asyncio.timeout(_SECONDS):
        output, _ = await process.communicate()
    story = output.decode()
    assert process.returncode == 0, story
    assert "whole and as a stream: 8 tokens, the same each time" in story
    assert "~ live: model.deployment.running" in story
    assert (names(tmp_path), left_running(tmp_path)) == ([], [])
