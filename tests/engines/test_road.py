"""One road for every engine in every form: the same calls and the same expectations, on real engines.

Registered, deployed, seen in every view, asked through the gateway, counted, adopted by a second daemon, stopped, gone.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.engines.vllm import tiny_llm, vllm_needed

from aiwm.assets import MODEL, MODEL_FILES, digits
from aiwm.daemon.engines.triton_install import find_binary
from aiwm.daemon.launching import launchers
from aiwm.kit.settings import Settings
from aiwm.testing.road import model_is, upload
from aiwm.testing.world import World, eventually, open_world

_START_SECONDS = 300.0
_NONE = "/nowhere/engine"


@dataclass(frozen=True)
class Subject:
    """An engine with a model for it; `ask` is a path of the engine, a body, and what must come of it."""

    engine: str
    framework: str
    files: Callable[[], dict[str, bytes]]
    ask: tuple[str, dict[str, Any], Callable[[Any], bool]]
    arguments: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


def _digits() -> dict[str, bytes]:
    return {name: (MODEL / name).read_bytes() for name in MODEL_FILES}


def _tiny() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tiny_llm() / "model").iterdir() if path.is_file()}


_ROW = digits()[0]
_PIXELS = {"name": "PIXELS", "datatype": "FP32", "shape": [1, 64], "data": list(_ROW.pixels)}
SUBJECTS = {
    "triton": Subject(
        "triton",
        "triton",
        _digits,
        ("v2/models/road/infer", {"inputs": [_PIXELS]}, lambda answer: answer["outputs"][0]["data"] == [_ROW.label]),
    ),
    "vllm": Subject(
        "vllm",
        "safetensors",
        _tiny,
        (
            "v1/completions",
            {"model": "road", "prompt": "A node", "max_tokens": 3, "ignore_eos": True},
            lambda answer: answer["usage"]["completion_tokens"] == 3,
        ),
        ("--max-model-len=1024", "--enforce-eager"),
        (("VLLM_CPU_KVCACHE_SPACE", "1"),),
    ),
}


def _settings(folder: Path, request: pytest.FixtureRequest, engine: str, form: str) -> Settings:
    """A node that has the engine in that form alone."""
    if form == "container":
        image = request.getfixturevalue(f"{engine}_image")
        docker = request.getfixturevalue("session_docker").environment["DOCKER_HOST"]
        return Settings(data_dir=folder, docker_host=docker, triton_image=image, vllm_image=image)
    if engine == "triton":
        if find_binary("") is None:
            pytest.skip("no tritonserver; install it with: pip install 'aiwm[triton]'")
        return Settings(data_dir=folder, docker_host="off")
    return Settings(data_dir=folder, docker_host="off", vllm_server=str(vllm_needed() / "bin/vllm"))


@pytest.mark.parametrize("form", ["process", "container"])
@pytest.mark.parametrize("engine", ["triton", "vllm"])
async def test_the_road_is_the_same(
    engine: str, form: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, subject = _settings(tmp_path, request, engine, form), SUBJECTS[engine]
    if form == "container":
        # Whatever is installed here besides, this node knows containers alone.
        monkeypatch.setattr("aiwm.daemon.launching.find_binary", lambda _: None)
        monkeypatch.setattr("aiwm.daemon.launching.find_vllm", lambda _: None)
    async with open_world(tmp_path) as world:
        node_id = await world.node("one", launchers(settings, tmp_path / "node", None, lambda _: None))
        deployment = await _deployed(world, subject)
        path = f"/api/v1/deployments/{deployment['deploymentId']}"
        (replica,) = deployment["replicaStatus"]
        assert (replica["nodeId"], replica["state"], replica["health"]) == (node_id, "running", "healthy")
        assert (replica["gpuDeviceIds"], replica["restarts"]) == ([], 0)
        assert deployment["containerName"] == replica["containerName"]
        where, body, right = subject.ask
        answer: Any = await world.call("POST", f"{path}/inference/{where}", json=body, expect=200)
        assert right(answer), answer
        await eventually(lambda: _counted(world, path), within=30)
        async with world.http.get(f"{world.url}{path}/logs?tail=50") as log:
            assert (log.status, bool((await log.text()).strip())) == (200, True)
        await world.call("POST", f"{path}/stop", expect=202)
        await eventually(lambda: _is(world, path, "stopped"), within=60)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", deployment["containerPort"]))
        if form == "container":
            assert request.getfixturevalue("session_docker").left_behind() == []


async def _deployed(world: World, subject: Subject) -> dict[str, Any]:
    params = {"name": "model", "framework": subject.framework}
    model_id = str((await world.call("POST", "/api/v1/models", json=params, expect=201))["modelId"])
    await upload(world, model_id, subject.files())
    await eventually(lambda: model_is(world, model_id, "ready"))
    wish = {
        "name": "road",
        "modelId": model_id,
        "engineArgs": list(subject.arguments),
        "environmentVariables": dict(subject.variables),
    }
    made = await world.call("POST", "/api/v1/deployments", json=wish, expect=201)
    assert made["engine"] == subject.engine
    path = f"/api/v1/deployments/{made['deploymentId']}"
    await eventually(lambda: _is(world, path, "running"), within=_START_SECONDS)
    return await world.call("GET", path, expect=200)


async def _is(world: World, path: str, status: str) -> bool:
    seen = await world.call("GET", path)
    assert seen["status"] != "failed", seen["statusReason"]
    return seen["status"] == status


async def _counted(world: World, path: str) -> bool:
    """The trial before it was called running, and ours."""
    answer: Any = await world.call("GET", f"{path}/replicas", expect=200)
    engine = answer["data"][0]["engine"] or {}
    return (engine.get("requests") or 0) >= 2 and engine.get("failures") in (0, None)
