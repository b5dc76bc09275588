"""An image model and a text model, uploaded as plain files, and an ensemble answer real tensors under a real Triton."""

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from tests.daemon_support import QUICK, Controller, controller, order, running, settings_for, until

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.triton_install import find_binary

MODELS = Path(__file__).parent / "models"
RED = np.zeros((5, 7, 3), np.uint8)
RED[:, :, 0] = 255
STRIPED = np.zeros((6, 8, 3), np.uint8)
STRIPED[:, ::2] = 255
DOUBLER = b"""
import triton_python_backend_utils as triton

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": [-1]})
        config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [-1]})
        config.set_max_batch_size(0)
        return config

    def execute(self, requests):
        doubled = [triton.get_input_tensor_by_name(each, "X").as_numpy() * 2 for each in requests]
        return [triton.InferenceResponse([triton.Tensor("Y", each)]) for each in doubled]
"""
ENSEMBLE = b"""
name: "both"
platform: "ensemble"
input [{ name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }]
ensemble_scheduling { step [
  { model_name: "once" model_version: -1 input_map { key: "X" value: "IN" } output_map { key: "Y" value: "DOUBLED" } },
  { model_name: "again" model_version: -1 input_map { key: "X" value: "DOUBLED" } output_map { key: "Y" value: "OUT" } }
] }
"""
GREETING = "grüß dich 🙂"


@pytest.fixture(autouse=True)
def _triton() -> None:
    if find_binary("") is None:
        pytest.skip("no tritonserver; install it with: pip install 'aiwm[triton]'")


@asynccontextmanager
async def served(one: Controller, data_dir: Path, model: str, files: dict[str, bytes]) -> AsyncIterator[str]:
    """Where the model answers, deployed under that name from `files`."""
    artifact = one.add_files(files)
    async with running(Daemon(settings_for(one, data_dir), policy=QUICK)):
        await until(lambda: one.of("node.register"))
        deploy = order(artifact.model_copy(update={"framework": "custom"}), deployment_name=model)
        result = await one.result(await one.command("command.deploy", deploy.to_wire()), seconds=60)
        assert result["status"] == "success", result
        yield f"{result['result']['endpoint']}/v2/models/{model}"
        await one.result(await one.command("command.stop", {"deploymentId": "deploy-1"}), seconds=30)


def folder(model: str) -> dict[str, bytes]:
    paths = [path for path in (MODELS / model).iterdir() if path.is_file()]
    return {path.name: path.read_bytes() for path in paths}


async def ask(url: str, header: dict[str, Any], tensors: bytes = b"") -> tuple[dict[str, Any], bytes]:
    """The answer to an inference: its JSON, and the tensors behind it. `tensors` go behind the question's JSON."""
    text = json.dumps(header).encode()
    length = {"Inference-Header-Content-Length": str(len(text))} if tensors else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/infer", data=text + tensors, headers=length) as answer,
    ):
        body = await answer.read()
        assert answer.status == 200, body
        end = int(answer.headers.get("Inference-Header-Content-Length", len(body)))
        return json.loads(body[:end]), body[end:]


async def test_an_image_model_answers_json_and_binary_tensors_of_any_size(tmp_path: Path) -> None:
    async with controller() as one, served(one, tmp_path, "image", folder("image")) as url:
        as_json = {"name": "IMAGE", "datatype": "UINT8", "shape": list(RED.shape), "data": RED.ravel().tolist()}
        answer, _ = await ask(url, {"inputs": [as_json]})
        (scores,) = answer["outputs"]
        assert (scores["name"], scores["datatype"], scores["shape"]) == ("SCORES", "FP32", [4])
        # By hand: the colours are 2/3, -1/3 and -1/3 from grey, and no neighbours differ.
        powers = np.exp(8 * np.array([2 / 3, -1 / 3, -1 / 3, 0]))
        assert scores["data"] == pytest.approx((powers / powers.sum()).tolist(), rel=1e-5)

        size = {"binary_data_size": STRIPED.nbytes}
        binary = {"name": "IMAGE", "datatype": "UINT8", "shape": list(STRIPED.shape), "parameters": size}
        wanted = {"name": "SCORES", "parameters": {"binary_data": True}}
        answer, tensors = await ask(url, {"inputs": [binary], "outputs": [wanted]}, STRIPED.tobytes())
        assert answer["outputs"][0]["parameters"]["binary_data_size"] == len(tensors) == 16
        powers = np.exp(8 * np.array([0, 0, 0, 1]))
        assert np.frombuffer(tensors, "<f4").tolist() == pytest.approx((powers / powers.sum()).tolist(), rel=1e-5)

        # The label file lies where Triton looks for it.
        named = {"name": "SCORES", "parameters": {"classification": 1}}
        answer, _ = await ask(url, {"inputs": [as_json], "outputs": [named]})
        assert answer["outputs"][0]["data"][0].endswith(":0:red")


async def test_a_text_model_answers_json_and_binary_strings(tmp_path: Path) -> None:
    if int(metadata.version("numpy").split(".")[0]) >= 2:
        pytest.skip("this Triton exchanges no strings with numpy 2; install numpy 1: pip install 'numpy<2'")
    async with controller() as one, served(one, tmp_path, "text", folder("text")) as url:
        texts = [GREETING, "", "level"]
        question: dict[str, Any] = {"name": "TEXT", "datatype": "BYTES", "shape": [3], "data": texts}
        answer, _ = await ask(url, {"inputs": [question]})
        outputs = {each["name"]: each for each in answer["outputs"]}
        assert (outputs["TURNED"]["datatype"], outputs["LETTERS"]["datatype"]) == ("BYTES", "INT32")
        assert outputs["TURNED"]["data"] == [text[::-1] for text in texts]
        assert outputs["LETTERS"]["data"] == [11, 0, 5]

        packed = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
        question = {"name": "TEXT", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(packed)}}
        wanted = {"name": "TURNED", "parameters": {"binary_data": True}}
        answer, tensors = await ask(url, {"inputs": [question], "outputs": [wanted]}, packed)
        turned = [text[::-1].encode() for text in texts]
        assert tensors == b"".join(struct.pack("<I", len(text)) + text for text in turned)


async def test_several_models_in_one_server_answer_as_one_ensemble_that_has_no_version_folder(tmp_path: Path) -> None:
    models = {"all/once/1/model.py": DOUBLER, "all/again/1/model.py": DOUBLER, "all/both/config.pbtxt": ENSEMBLE}
    async with controller() as one, served(one, tmp_path, "demo", models) as url:
        question = {"name": "IN", "datatype": "FP32", "shape": [2], "data": [1.5, 2]}
        answer, _ = await ask(url, {"inputs": [question]})
        assert answer["outputs"][0]["data"] == [6.0, 8.0]
