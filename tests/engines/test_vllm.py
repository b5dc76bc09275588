"""The real vLLM on the CPU, by the whole road: registered, deployed, asked through the gateway, counted, stopped."""

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.engines.vllm import tiny_llm, vllm_needed

from aiwm.daemon.launching import launchers
from aiwm.kit.settings import Settings
from aiwm.testing.road import model_is, upload
from aiwm.testing.world import World, eventually, open_world

_START_SECONDS = 240.0
# Compiling needs a C++ compiler and another 15 s.
ARGUMENTS = ["--max-model-len=1024", "--enforce-eager"]
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}
QUESTION = [{"role": "user", "content": "What does a node do?"}]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    venv = vllm_needed()
    async with open_world(tmp_path) as opened:
        settings = Settings(vllm_server=str(venv / "bin/vllm"), docker_host="off")
        await opened.node("cpu-1", launchers(settings, tmp_path / "engines", None, lambda _: None))
        yield opened


async def registered(world: World, task_type: str, files: dict[str, bytes]) -> str:
    params = {"name": "tiny", "framework": "safetensors", "taskType": task_type}
    model_id = str((await world.call("POST", "/api/v1/models", json=params, expect=201))["modelId"])
    await upload(world, model_id, files)
    await eventually(lambda: model_is(world, model_id, "ready"))
    return model_id


async def deployed(world: World, model_id: str, becomes: str) -> dict[str, Any]:
    """The deployment once it is in that state."""
    params = {"name": "tiny", "modelId": model_id, "engineArgs": ARGUMENTS, "environmentVariables": ENVIRONMENT}
    made = await world.call("POST", "/api/v1/deployments", json=params, expect=201)
    await eventually(lambda: _is(world, made["deploymentId"], becomes), within=_START_SECONDS)
    return await world.call("GET", f"/api/v1/deployments/{made['deploymentId']}")


async def _is(world: World, deployment_id: object, status: str) -> bool:
    seen = await world.call("GET", f"/api/v1/deployments/{deployment_id}")
    assert seen["status"] in ("queued", "deploying", "running", status), seen["statusReason"]
    return seen["status"] == status


async def stopped(world: World, deployment: dict[str, Any]) -> None:
    """Ends it, and looks that nothing listens any more."""
    await world.call("POST", f"/api/v1/deployments/{deployment['deploymentId']}/stop", expect=202)
    await eventually(lambda: _is(world, deployment["deploymentId"], "stopped"), within=60)
    with socket.socket() as probe:
        # Connections that it closed itself are remembered for a minute, and hinder nobody who says this.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", deployment["containerPort"]))


def files_of(folder: Path, below: str = "") -> dict[str, bytes]:
    return {f"{below}{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}


async def test_a_language_model_chats_streams_and_is_counted(world: World) -> None:
    tiny = tiny_llm()
    files = files_of(tiny / "model") | files_of(tiny / "adapter", "adapters/shout/")
    deployment = await deployed(world, await registered(world, "llm", files), "running")
    path = f"/api/v1/deployments/{deployment['deploymentId']}"

    listed: Any = await world.call("GET", f"{path}/inference/v1/models", expect=200)
    assert [each["id"] for each in listed["data"]] == ["tiny", "tiny:shout"]

    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    answer: Any = await world.call("POST", f"{path}/inference/v1/chat/completions", json=body, expect=200)
    assert answer["usage"]["completion_tokens"] == 8
    said = answer["choices"][0]["message"]["content"]

    url = f"{world.url}{path}/inference/v1/chat/completions"
    async with world.http.post(url, json={**body, "stream": True}) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        lines = [line.decode().removeprefix("data: ").strip() async for line in stream.content if line.strip()]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]
    assert len(chunks) >= 8
    assert "".join(chunks) == said

    asked = {"model": "tiny:shout", "prompt": "hello", "max_tokens": 2, "ignore_eos": True}
    adapted: Any = await world.call("POST", f"{path}/inference/v1/completions", json=asked, expect=200)
    assert (adapted["model"], adapted["usage"]["completion_tokens"]) == ("tiny:shout", 2)

    async def counted() -> bool:
        answer: Any = await world.call("GET", f"{path}/replicas", expect=200)
        engine = answer["data"][0]["engine"] or {}
        # Two chats of 8 tokens, two of the adapter's, and the one of the trial before it was called running.
        return (engine.get("requests"), engine.get("generatedTokens")) == (4, 19)

    await eventually(counted, within=60)
    await stopped(world, deployment)


async def test_an_embedding_model_embeds(world: World) -> None:
    model_id = await registered(world, "embedding", files_of(tiny_llm() / "model"))
    deployment = await deployed(world, model_id, "running")
    path = f"/api/v1/deployments/{deployment['deploymentId']}/inference/v1/embeddings"
    answer: Any = await world.call("POST", path, json={"model": "tiny", "input": ["one", "two"]}, expect=200)
    one, two = (each["embedding"] for each in answer["data"])
    assert len(one) == len(two) == 128
    assert one != two
    await stopped(world, deployment)


@pytest.mark.parametrize(
    ("left_out", "changed", "words"),
    [
        ("model.safetensors", {}, "there are no weights among the model's files; upload its *.safetensors"),
        ("", {"architectures": ["FooForCausalLM"]}, "does not know the model's architecture 'FooForCausalLM'"),
    ],
)
async def test_a_model_vllm_cannot_load_fails_with_what_to_do(
    world: World, left_out: str, changed: dict[str, object], words: str
) -> None:
    files = files_of(tiny_llm() / "model")
    files["config.json"] = json.dumps({**json.loads(files["config.json"]), **changed}).encode()
    files.pop(left_out, None)
    failed = await deployed(world, await registered(world, "llm", files), "failed")
    assert words in failed["statusReason"]
