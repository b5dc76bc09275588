"""The truth about a real Triton's health: loading, tried out, degraded, hung; and what it counts."""

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.daemon_support import QUICK, Controller, controller, order, running, settings_for, until

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.prometheus import samples
from aiwm.daemon.engines.triton_install import find_binary
from aiwm.daemon.replicas import Policy

CONFIG = textwrap.dedent("""
    backend: "python"
    max_batch_size: {batch}
    input [{{ name: "X" data_type: {type} dims: [ -1 ] }}]
    output [{{ name: "Y" data_type: {type} dims: [ -1 ] }}]
    instance_group [{{ kind: KIND_CPU }}]
    {more}
""")
MODEL = textwrap.dedent("""
    import time
    import triton_python_backend_utils as triton

    class TritonPythonModel:
        def initialize(self, args):
            {initialize}

        def execute(self, requests):
            arrays = [triton.get_input_tensor_by_name(each, "X").as_numpy() for each in requests]
            {execute}
            return [triton.InferenceResponse([triton.Tensor("Y", each)]) for each in arrays]
""")
HANGS_ON_SEVENS = "time.sleep(600 if arrays[0].flat[0] == 7 else 0)"


def model(
    initialize: str = "pass", execute: str = "pass", *, type_: str = "TYPE_FP32", batch: int = 0, more: str = ""
) -> dict[str, bytes]:
    return {
        "config.pbtxt": CONFIG.format(type=type_, batch=batch, more=more).encode(),
        "1/model.py": MODEL.format(initialize=initialize, execute=execute).encode(),
    }


STEP = """
    platform: "ensemble"
    input [{ name: "X" data_type: TYPE_FP32 dims: [ -1 ] }]
    output [{ name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }]
    ensemble_scheduling { step [{
        model_name: "part" model_version: -1
        input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" }
    }] }
"""
ENSEMBLE = {"whole/config.pbtxt": STEP.encode(), "whole/1/nothing": b"."}


@pytest.fixture(autouse=True)
def _triton() -> None:
    if find_binary("") is None:
        pytest.skip("no tritonserver; install it with: pip install 'aiwm[triton]'")


@asynccontextmanager
async def deployed(
    one: Controller, data_dir: Path, files: dict[str, bytes], policy: Policy = QUICK
) -> AsyncIterator[dict[str, Any]]:
    """The result of deploying a model of these files; stopped in the end."""
    one.metrics_ms = 50
    async with running(Daemon(settings_for(one, data_dir), policy=policy)):
        await until(lambda: one.of("node.register"))
        sent = await one.command("command.deploy", order(one.add_files(files)).to_wire())
        try:
            yield await one.result(sent, seconds=60)
        finally:
            stop = await one.command("command.stop", {"deploymentId": "deploy-1", "graceSeconds": 0})
            await one.result(stop, seconds=30)


def told(one: Controller) -> list[dict[str, Any]]:
    return [each["data"] for each in one.of("deployment.status")]


async def asked(endpoint: str, value: float) -> int:
    question = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1], "data": [value]}]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{endpoint}/v2/models/demo/infer", json=question) as answer,
    ):
        return answer.status


async def counted(data_dir: Path) -> float:
    """How many requests Triton itself says that it answered."""
    ledger = json.loads((data_dir / "node/replicas/replica-1/ledger.json").read_text())
    async with aiohttp.ClientSession() as session, session.get(ledger["metrics"]) as answer:
        page = await answer.text()
    return samples(page, ["nv_inference_request_success"], {"model": "demo"})["nv_inference_request_success"]


@pytest.mark.parametrize(
    ("files", "trials"),
    [
        (model(), 1),
        (model(type_="TYPE_STRING", batch=4), 1),
        (ENSEMBLE | {f"part/{name}": content for name, content in model().items()}, 1),
        (model(execute="raise ValueError('of no use alone')", batch=4, more="sequence_batching { }"), 0),
    ],
    ids=["numbers", "texts", "ensemble", "sequences"],
)
async def test_a_model_that_answers_or_cannot_be_tried_is_healthy(
    tmp_path: Path, files: dict[str, bytes], trials: int
) -> None:
    async with controller() as one, deployed(one, tmp_path, files) as result:
        assert result["status"] == "success", result
        assert (told(one)[-1]["health"], told(one)[-1]["message"]) == ("healthy", "serving")
        assert await counted(tmp_path) == trials
        told_too = {"requests": trials, "failures": 0, "queued": 0, "requestCount": trials}
        await until(lambda: told_too.items() <= numbers(one).items())


def numbers(one: Controller) -> dict[str, Any]:
    """What the node last told of the engine's numbers."""
    replicas = [each for message in one.of("telemetry.metrics") for each in message["data"]["replicas"]]
    return replicas[-1].get("engine", {}) if replicas else {}


async def test_a_model_that_raises_at_its_first_inference_runs_degraded_in_its_own_words(tmp_path: Path) -> None:
    async with (
        controller() as one,
        deployed(one, tmp_path, model(execute="raise ValueError('no such layer')")) as result,
    ):
        assert result["status"] == "success", result
        last = told(one)[-1]
        assert (last["state"], last["health"]) == ("running", "degraded")
        assert last["message"].startswith("serving, but a trial request failed: Failed to process the request(s)")
        assert last["message"].endswith("ValueError: no such layer")


async def test_a_model_that_loads_late_says_how_long_that_takes(tmp_path: Path) -> None:
    late, policy = model(initialize="time.sleep(2)"), replace(QUICK, tell_interval=0.1)
    async with controller() as one, deployed(one, tmp_path, late, policy) as result:
        assert result["status"] == "success", result
        waiting = [each for each in told(one) if each["state"] == "starting"]
        # Triton does not listen before it has loaded its models; then, for a moment, its trial is waited for.
        silent = [each["message"] for each in waiting if each["health"] == "started"]
        assert len(silent) >= 5
        assert silent[-1].startswith("started, answers nothing yet, ")
        assert silent[-1].endswith(" of at most 900 s")


async def test_a_model_that_does_not_load_within_its_limit_has_failed(tmp_path: Path) -> None:
    late, policy = model(initialize="time.sleep(600)"), replace(QUICK, start_timeout=1, grace=0)
    async with controller() as one, deployed(one, tmp_path, late, policy) as result:
        assert result["error"]["code"] == "CONTAINER_START_FAILED"
        assert "did not become ready within 1 s" in result["error"]["message"]


async def test_a_model_that_hangs_with_work_in_flight_is_told_and_started_again(tmp_path: Path) -> None:
    policy = replace(QUICK, hung_after=0.5, hung_end=0.5, grace=0)
    async with controller() as one, deployed(one, tmp_path, model(execute=HANGS_ON_SEVENS), policy) as result:
        endpoint = result["result"]["endpoint"]
        asking = [asyncio.create_task(asked(endpoint, 7)) for _ in range(3)]
        await until(lambda: told(one)[-1]["health"] == "hung", 20)
        last = told(one)[-1]
        assert last["state"] == "unhealthy"
        assert "in flight and nothing has moved for" in last["message"]
        await until(lambda: one.states("replica-1").count("running") == 2, 30)
        assert one.states("replica-1")[-4:] == ["unhealthy", "starting", "starting", "running"]
        assert "started again because the engine was hung: " in told(one)[-1]["message"]
        assert told(one)[-1]["restarts"] == 1
        assert await asked(told(one)[-1]["endpoint"], 1) == 200
        assert all(
            isinstance(each, aiohttp.ClientError) for each in await asyncio.gather(*asking, return_exceptions=True)
        )


async def test_one_request_that_hangs_is_found_by_a_trial_and_a_slow_one_is_forgiven(tmp_path: Path) -> None:
    policy = replace(QUICK, trial_interval=0.2, trial_seconds=0.3)
    slow = "time.sleep(2 if arrays[0].flat[0] == 7 else 0)"
    async with controller() as one, deployed(one, tmp_path, model(execute=slow), policy) as result:
        asking = asyncio.create_task(asked(result["result"]["endpoint"], 7))
        await until(lambda: told(one)[-1]["health"] == "degraded", 20)
        assert "a trial request failed: it had no answer within" in told(one)[-1]["message"]
        assert await asking == 200
        await until(lambda: told(one)[-1]["health"] == "healthy", 20)
        assert "unhealthy" not in one.states("replica-1")
