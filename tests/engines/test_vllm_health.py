"""A real vLLM whose engine hangs still answers its health check; what it counts tells, and it is started again."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from tests.daemon_support import QUICK, Controller, controller, order, running, settings_for, until
from tests.engines.vllm import tiny_llm, vllm_needed

from aiwm.daemon.daemon import Daemon

# A token takes the tiny model milliseconds.
POLICY = replace(QUICK, probe_interval=0.5, hung_after_tokens=2, hung_end=2, grace=0)


def numbers(one: Controller) -> dict[str, Any]:
    replicas = [each for message in one.of("telemetry.metrics") for each in message["data"]["replicas"]]
    return replicas[-1].get("engine", {}) if replicas else {}


def last(one: Controller) -> dict[str, Any]:
    return dict(one.of("deployment.status")[-1]["data"])


async def ask(endpoint: str, tokens: int) -> int:
    body = {"model": "demo", "prompt": "hello", "max_tokens": tokens, "ignore_eos": True}
    async with aiohttp.ClientSession(endpoint) as session, session.post("/v1/completions", json=body) as answer:
        return int((await answer.json())["usage"]["completion_tokens"])


@asynccontextmanager
async def stream(endpoint: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """A request that goes on for most of a second."""
    body = {"model": "demo", "prompt": "hello", "max_tokens": 1000, "ignore_eos": True, "stream": True}
    async with aiohttp.ClientSession(endpoint) as session, session.post("/v1/completions", json=body) as answer:
        yield answer


def engine_core() -> psutil.Process:
    """The process of vLLM that has the model."""
    family = psutil.Process().children(recursive=True)
    return next(each for each in family if "EngineCore" in " ".join(each.cmdline()))


async def test_a_vllm_whose_engine_hangs_is_told_and_started_again(tmp_path: Path) -> None:
    binary, model = vllm_needed() / "bin/vllm", tiny_llm() / "model"
    async with controller() as one:
        one.metrics_ms = 100
        daemon = Daemon(replace(settings_for(one, tmp_path), vllm_server=str(binary)), policy=POLICY)
        async with running(daemon):
            await until(lambda: one.of("node.register"))
            artifact = one.add_files({each.name: each.read_bytes() for each in model.iterdir()})
            asked = order(artifact, engine="vllm", engine_args=["--max-model-len=1024", "--enforce-eager"])
            result = await one.result(await one.command("command.deploy", asked.to_wire()), seconds=240)
            assert result["status"] == "success", result
            assert (last(one)["health"], last(one)["message"]) == ("healthy", "serving")
            await until(lambda: numbers(one).get("requests") == 1)
            assert numbers(one)["generatedTokens"] == 1, "the trial asked for one token"
            assert await ask(result["result"]["endpoint"], 7) == 7
            await until(lambda: numbers(one).get("generatedTokens") == 8)
            core = engine_core()
            async with stream(result["result"]["endpoint"]) as answer:
                await answer.content.readany()
                os.kill(core.pid, signal.SIGSTOP)
                await until(lambda: last(one)["health"] == "hung")
            (hung,) = [each["data"] for each in one.of("deployment.status") if each["data"].get("health") == "hung"]
            assert hung["state"] == "unhealthy"
            assert hung["message"].startswith("1 request is in flight and nothing has moved for ")
            await until(lambda: one.states("replica-1").count("running") == 2, 240)
            assert last(one)["message"].startswith("serving; started again because the engine was hung: 1 request")
            assert await ask(last(one)["endpoint"], 3) == 3
            stop = await one.command("command.stop", {"deploymentId": "deploy-1", "graceSeconds": 0})
            await one.result(stop, seconds=30)
