"""The real Triton server under the daemon: a good model serves, a bad one says in Triton's own words why not."""

import json
import os
import signal
import socket
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
from tests.daemon_support import QUICK, Controller, controller, order, running, settings_for, until

from aiwm.daemon import keeper
from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.base import Address, Ports
from aiwm.daemon.engines.triton_install import find_binary
from aiwm.daemon.ports import choose_ports

CONFIG = textwrap.dedent("""
    name: "somebody-elses-name"
    backend: "python"
    max_batch_size: 0
    input [{ name: "X" data_type: TYPE_FP32 dims: [-1] }]
    output [{ name: "Y" data_type: TYPE_FP32 dims: [-1] }]
    instance_group [{ kind: KIND_CPU }]
""").encode()
DOUBLER = textwrap.dedent("""
    import os
    import numpy as np
    import triton_python_backend_utils as triton

    print("environment:", sorted(os.environ), flush=True)

    class TritonPythonModel:
        def execute(self, requests):
            doubled = [triton.get_input_tensor_by_name(each, "X").as_numpy() * np.float32(2) for each in requests]
            return [triton.InferenceResponse([triton.Tensor("Y", each)]) for each in doubled]
""").encode()
BROKEN = textwrap.dedent("""
    class TritonPythonModel:
        def initialize(self, args):
            raise ValueError("the weights are for another model")
""").encode()


@pytest.fixture(autouse=True)
def _triton(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_binary("") is None:
        pytest.skip("no tritonserver; install it with: pip install 'aiwm[triton]'")
    monkeypatch.setenv("AIWM_NODE_TOKEN", "must not reach an engine")


@asynccontextmanager
async def node(one: Controller, data_dir: Path) -> AsyncIterator[Daemon]:
    """A daemon with the launcher and the engine of a real node, whose engines are gone afterwards."""
    async with running(Daemon(settings_for(one, data_dir), policy=QUICK)) as daemon:
        await until(lambda: one.of("node.register"))
        yield daemon
        stop = await one.command("command.stop", {"deploymentId": "deploy-1", "graceSeconds": 10})
        await one.result(stop, seconds=30)
        assert list(Path("/dev/shm").glob("aiwm_replica-1_*")) == []  # noqa: ASYNC240


async def test_a_model_is_served_under_the_deployments_name_and_leaves_nothing_when_stopped(tmp_path: Path) -> None:
    async with controller() as one:
        async with node(one, tmp_path):
            assert one.of("node.register")[0]["data"]["engines"] == [{"name": "triton", "version": "2.51.0"}]
            artifact = one.add_files({"config.pbtxt": CONFIG, "1/model.py": DOUBLER})
            sent = await one.command(
                "command.deploy", order(artifact, environment_variables={"APP_GREETING": "hello"}).to_wire()
            )
            result = await one.result(sent, seconds=60)
            assert result["status"] == "success", result
            endpoint = result["result"]["endpoint"]
            question = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [2], "data": [1.5, 2]}]}
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{endpoint}/v2/models/demo/infer", json=question) as answer,
            ):
                assert answer.status == 200, await answer.text()
                assert (await answer.json())["outputs"][0]["data"] == [3.0, 4.0]
            logs = await one.result(
                await one.command("command.logs", {"deploymentId": "deploy-1", "replicaId": "replica-1", "tail": 500})
            )
            printed = next(line for line in logs["result"]["text"].splitlines() if line.startswith("environment:"))
            assert "'APP_GREETING'" in printed
            assert "TOKEN" not in printed
            assert "AIWM" not in printed
            port = int(endpoint.rpartition(":")[2])
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        # What other tests ended and nobody has asked after yet is none of these.
        children = psutil.Process().children(recursive=True)
        assert [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []


async def test_a_model_that_does_not_load_fails_with_tritons_own_words(tmp_path: Path) -> None:
    async with controller() as one, node(one, tmp_path):
        artifact = one.add_files({"mine/config.pbtxt": CONFIG, "mine/1/model.py": BROKEN})
        result = await one.result(await one.command("command.deploy", order(artifact).to_wire()), seconds=60)
        assert result["error"]["code"] == "CONTAINER_START_FAILED"
        words = "failed to load 'demo' version 1: Internal: ValueError: the weights are for another model"
        assert words in result["error"]["message"]
        last = one.of("deployment.status")[-1]["data"]
        assert (last["state"], last["status"]) == ("failed", "failed")
        assert words in last["message"]


async def test_a_model_without_a_model_in_it_says_what_to_upload(tmp_path: Path) -> None:
    async with controller() as one, node(one, tmp_path):
        artifact = one.add_files({"README.md": b"nothing here"})
        result = await one.result(await one.command("command.deploy", order(artifact).to_wire()))
        assert result["error"]["code"] == "COMMAND_INVALID"
        assert "upload config.pbtxt" in result["error"]["message"]


async def test_a_port_taken_meanwhile_is_changed_for_another(tmp_path: Path) -> None:
    chosen: list[Ports] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        def first_a_taken_one(address: Address) -> Ports:
            free = choose_ports(address)
            chosen.append(free if chosen else Ports(taken.getsockname()[1], free.grpc, free.metrics))
            return chosen[-1]

        async with controller() as one:
            daemon = Daemon(settings_for(one, tmp_path), policy=QUICK, choose=first_a_taken_one)
            async with running(daemon):
                await until(lambda: one.of("node.register"))
                artifact = one.add_files({"config.pbtxt": CONFIG, "1/model.py": DOUBLER})
                result = await one.result(await one.command("command.deploy", order(artifact).to_wire()), seconds=60)
                assert result["status"] == "success", result
                assert result["result"]["containerPort"] == chosen[1].http
                await one.result(await one.command("command.stop", {"deploymentId": "deploy-1"}), seconds=30)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def test_a_triton_whose_keeper_was_killed_comes_back_and_leaves_nothing(tmp_path: Path) -> None:
    async with controller() as one, node(one, tmp_path):
        artifact = one.add_files({"config.pbtxt": CONFIG, "1/model.py": DOUBLER})
        await one.result(await one.command("command.deploy", order(artifact).to_wire()), seconds=60)
        state = json.loads((tmp_path / "node/replicas/replica-1" / keeper.STATE).read_text())
        family = [psutil.Process(state["pid"]), *psutil.Process(state["pid"]).children(recursive=True)]
        os.kill(state["keeperPid"], signal.SIGKILL)
        await until(lambda: one.states("replica-1").count("running") == 2, 60)
        # Triton's helper notices by itself, within a moment, that its server is gone.
        await until(lambda: not any(_lives(each) for each in family), 20)
