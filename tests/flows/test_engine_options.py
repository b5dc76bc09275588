"""What users say to engines: refused at once by its place, refused by a node as well, and told to a custom engine."""

import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.daemon_support import QUICK, controller, order, running, settings_for, until

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.custom import CustomEngine
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.protocol.states import EngineName
from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually, open_world

SERVER = """
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404); self.end_headers()
        self.wfile.write("\\n".join(sorted(os.listdir(os.environ["MODEL_DIR"]))).encode())
    def log_message(self, *args): pass
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Answer).serve_forever()
"""
COMMAND = [sys.executable, "-I", "-S", "-c", SERVER]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def refusal(world: World, method: str, path: str, body: dict[str, object]) -> list[str]:
    answer: Any = await world.call(method, f"/api/v1/deployments{path}", json=body, expect=422)
    assert answer["code"] == "VALIDATION_FAILED"
    return [each["field"] for each in answer["errors"]]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"engine": "vllm", "engineArgs": ["--seed=1", "--host=0.0.0.0"]}, ["engineArgs[1]"]),
        ({"engine": "triton", "engineArgs": ["--log-file=/x"]}, ["engineArgs[0]"]),
        ({"environmentVariables": {"LD_PRELOAD": "/x.so", "APP_A": "b"}}, ["environmentVariables.LD_PRELOAD"]),
        ({"engine": "vllm", "healthPath": "/x", "port": 80}, ["healthPath", "port"]),
        ({"engine": "custom", "engineArgs": ["serve"], "port": 80}, ["port"]),
        ({"engine": "custom"}, ["image"]),
        ({"engine": "custom", "image": "a", "healthPath": "no-slash"}, ["healthPath"]),
        ({"engine": "custom", "image": "a", "healthPath": "//@elsewhere:1/"}, ["healthPath"]),
        ({"engine": "custom", "image": "a", "port": 70_000}, ["port"]),
    ],
)
async def test_what_an_engine_does_not_take_is_refused_by_its_place(
    world: World, body: dict[str, object], fields: list[str]
) -> None:
    model_id = await ready_model(world)
    for path in ("", "/plan"):
        assert await refusal(world, "POST", path, {"name": "d", "modelId": model_id, **body}) == fields
    listed: Any = await world.call("GET", "/api/v1/deployments", expect=200)
    assert listed["data"] == []


async def test_a_change_is_checked_with_what_stays(world: World) -> None:
    model_id = await ready_model(world)
    body = {"name": "d", "modelId": model_id, "engine": "custom", "image": "a", "port": 80, "desired": "stopped"}
    made = await world.call("POST", "/api/v1/deployments", json=body, expect=201)
    assert (made["healthPath"], made["port"]) == ("/", 80)
    path = f"/{made['deploymentId']}"
    assert await refusal(world, "PATCH", path, {"image": None, "engineArgs": ["serve"]}) == ["port"]
    changes = {"image": None, "engineArgs": ["serve"], "port": None, "healthPath": "/up?a=b"}
    changed = await world.call("PATCH", f"/api/v1/deployments{path}", json=changes, expect=200)
    assert (changed["healthPath"], changed["port"], changed["image"]) == ("/up?a=b", None, None)


async def test_a_node_refuses_it_as_well(tmp_path: Path) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await until(lambda: one.of("node.register"))
        for changes, words in (
            ({"engine_args": ["--model-repository=/etc"]}, "engineArgs[0]"),
            ({"environment_variables": {"PYTHONPATH": "/x"}}, "environmentVariables.PYTHONPATH"),
        ):
            result = await one.result(await one.command("command.deploy", order(**changes).to_wire()))
            assert result["error"]["code"] == "COMMAND_INVALID"
            assert words in result["error"]["message"]
        assert one.states("replica-1") == []


async def test_a_command_serves_as_a_custom_engine_where_the_operator_allows_it(world: World) -> None:
    await world.node("cpu-1", ProcessLauncher({EngineName.CUSTOM: CustomEngine(commands=True)}))
    model_id = await ready_model(world)
    body = {"name": "d", "modelId": model_id, "engine": "custom", "engineArgs": COMMAND, "healthPath": "/healthz"}
    made = await world.call("POST", "/api/v1/deployments", json=body, expect=201)
    path = f"/api/v1/deployments/{made['deploymentId']}"

    async def serves() -> bool:
        return (await world.call("GET", path))["status"] == "running"

    await eventually(serves, within=30)
    async with world.http.get(f"{world.url}{path}/inference/healthz") as answer:
        assert (answer.status, await answer.text()) == (200, "1\nconfig.pbtxt")
    await world.call("POST", f"{path}/stop", expect=202)

    async def stopped() -> bool:
        return (await world.call("GET", path))["status"] == "stopped"

    await eventually(stopped, within=30)


async def test_without_leave_a_node_has_no_custom_engine(tmp_path: Path) -> None:
    async with controller() as one:
        settings = replace(settings_for(one, tmp_path), docker_host="off")
        async with running(Daemon(settings, policy=QUICK)):
            names = [each["name"] for each in (await until(lambda: one.of("node.register")))[0]["data"]["engines"]]
            assert "custom" not in names
            wish = order(engine=EngineName.CUSTOM, engine_args=COMMAND)
            result = await one.result(await one.command("command.deploy", wish.to_wire()))
            assert "cannot run engine custom" in result["error"]["message"]
