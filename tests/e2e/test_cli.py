"""The command line as people run it: processes of their own against a whole installation."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.http_support import served, until
from tests.wire.played_node import played

from aiwm.apps.noti import compose
from aiwm.testing.road import ready_model
from aiwm.testing.simulated import SimulatedTelemetry
from aiwm.testing.world import ADMIN_PASSWORD, World, open_world


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Terminal:
    """A person's shell: one home, and what was typed."""

    world: World
    noti_url: str
    home: Path

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        own = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "aiwm",
            *words,
            env={**own, "XDG_CONFIG_HOME": str(self.home), "PYTHONUNBUFFERED": "1"},
            cwd=self.home,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def type(self, *words: str, stdin: str = "") -> Ran:
        process = await self.start(*words)
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin.encode())
        return Ran(process.returncode or 0, out.decode(), err.decode())

    async def ok(self, *words: str, stdin: str = "") -> str:
        ran = await self.type(*words, stdin=stdin)
        assert ran.code == 0, ran.err
        return ran.out

    async def login(self) -> str:
        urls = ("--url", self.world.url, "--noti-url", self.noti_url)
        return await self.ok("login", *urls, "--password-stdin", stdin=f"{ADMIN_PASSWORD}\n")


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    home = tmp_path / "home"
    home.mkdir()
    async with open_world(tmp_path / "world") as world:
        infra = world.infra
        noti = compose(infra.settings, infra.store, infra.queues, infra.tokens, infra.clock)
        await noti.prepare()
        world.controller.tasks.spawn("noti queue", noti.consume())
        async with served(noti.application()) as noti_url:
            yield Terminal(world, noti_url, home)
        noti.access.passwords.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "1").mkdir(parents=True)
    (made / "config.pbtxt").write_text('backend: "python"\n')
    (made / "1" / "model.py").write_text("class TritonPythonModel: ...\n")
    return made


async def test_the_main_road_can_be_typed(terminal: Terminal, folder: Path) -> None:
    await terminal.world.node("gpu-1")
    await terminal.login()
    await terminal.ok("models", "create", "digits", "--framework", "triton")
    pushed = await terminal.type("models", "push", "digits", str(folder))
    assert pushed.code == 0
    assert "sending 2 files" in pushed.err
    assert "ready" in pushed.out
    deployed = await terminal.type("deployments", "create", "demo", "--model", "digits", "--wait", "-o", "json")
    assert deployed.code == 0, deployed.err
    assert "ready for inference" in deployed.err
    assert json.loads(deployed.out)["status"] == "running"
    stopped = await terminal.type("deployments", "stop", "demo", "--wait")
    assert stopped.code == 0, stopped.err
    assert "ready for inference" not in stopped.err
    assert "stopped" in stopped.out
    assert "model.deployment.running" in await terminal.ok("deployments", "events", "demo")
    await terminal.ok("deployments", "rm", "demo")
    await terminal.ok("models", "rm", "digits")


async def test_a_machine_is_let_in_and_held_back_from_the_terminal(terminal: Terminal, tmp_path: Path) -> None:
    await terminal.login()
    made = await terminal.type("nodes", "join-token", "--label", "zone=a", "--expires-in", "600")
    assert made.code == 0, made.err
    (line,) = [line for line in made.err.splitlines() if "AIWM_JOIN_TOKEN=" in line]
    variable, *words = line.partition("join: ")[2].split()
    token = variable.removeprefix("AIWM_JOIN_TOKEN=")
    assert f"token        {token}" in made.out
    (tmp_path / "machine").mkdir()
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words, "--name", "gpu-1", "--data-dir", str(tmp_path / "machine")),
        env={"PATH": os.environ["PATH"], "AIWM_JOIN_TOKEN": token},
        stderr=asyncio.subprocess.PIPE,
    )

    async def online() -> bool:
        return "online" in await terminal.ok("nodes", "ls")

    await until(online, "the node is online", 30)
    daemon.terminate()
    await daemon.communicate()
    assert daemon.returncode == 0
    (used,) = json.loads(await terminal.ok("nodes", "join-tokens", "ls", "-o", "json"))["data"]
    node = json.loads(await terminal.ok("nodes", "get", "gpu-1", "-o", "json"))
    assert (used["status"], used["usedBy"], node["labels"]) == ("used", node["nodeId"], {"zone": "a"})
    again = json.loads(await terminal.ok("nodes", "join-token", "--node", "gpu-1", "-o", "json"))
    assert again["nodeId"] == node["nodeId"]
    await terminal.ok("nodes", "join-tokens", "rm", again["joinTokenId"])
    gone = await terminal.type("nodes", "join-tokens", "get", again["joinTokenId"])
    assert "JOIN_TOKEN_NOT_FOUND" in gone.err
    assert ", cordoned" in await terminal.ok("nodes", "cordon", "gpu-1")
    assert ", maintenance" in await terminal.ok("nodes", "maintenance", "gpu-1", "on")
    assert ", cordoned" in await terminal.ok("nodes", "maintenance", "gpu-1", "off")
    assert ", cordoned" not in await terminal.ok("nodes", "uncordon", "gpu-1")
    labelled = json.loads(await terminal.ok("nodes", "label", "gpu-1", "rack=7", "zone-", "-o", "json"))
    assert labelled["labels"] == {"rack": "7"}


async def test_json_is_exactly_what_the_api_says(terminal: Terminal) -> None:
    node_id = await terminal.world.node("gpu-1")
    await terminal.login()
    shown = json.loads(await terminal.ok("nodes", "get", "gpu-1", "-o", "json"))
    said = await terminal.world.call("GET", f"/api/v1/nodes/{node_id}")
    moving = {"lastHeartbeat", "ramFree", "diskFree", "gpuDevices", "uptimeSeconds", "conditions"}
    assert list(shown) == list(said)
    assert {name: shown[name] for name in shown.keys() - moving} == {name: said[name] for name in said.keys() - moving}
    assert json.loads(await terminal.ok("deployments", "ls", "-o", "json")) == {
        "data": [],
        "pagination": {"page": 1, "limit": 100, "total": 0},
    }


async def test_a_file_is_applied_again_and_again(terminal: Terminal) -> None:
    await terminal.login()
    file = terminal.home / "nodes.yaml"
    file.write_text("name: gpu-1\nlabels: {zone: a}\n---\nname: gpu-2\n")
    first = await terminal.type("nodes", "apply", "-f", str(file))
    assert first.code == 0, first.err
    assert first.err.splitlines() == ["node gpu-1 created", "node gpu-2 created"]
    file.write_text("name: gpu-1\nlabels: {zone: b}\n---\nname: gpu-2\n")
    second = await terminal.type("nodes", "apply", "-f", str(file))
    assert second.err.splitlines() == ["node gpu-1 changed: labels", "node gpu-2 unchanged"]
    file.write_text("name: gpu-1\ncolour: red\n")
    third = await terminal.type("nodes", "apply", "-f", str(file))
    assert third.code == 1
    error, field = third.err.splitlines()
    assert error.startswith("error: cannot ")
    assert "(VALIDATION_FAILED, correlation id corr-" in error
    assert field.startswith("  colour: ")


async def test_a_login_that_fails_says_why_and_keeps_nothing(terminal: Terminal) -> None:
    wrong = await terminal.type("login", "--url", terminal.world.url, "--password-stdin", stdin="wrong\n")
    assert wrong.code == 1
    assert "CREDENTIALS_WRONG" in wrong.err
    away = await terminal.type("login", "--url", "http://127.0.0.1:9", "--password-stdin", stdin="secret\n")
    assert away.code == 1
    assert away.err.startswith("error: cannot reach http://127.0.0.1:9: ")
    assert "secret" not in away.err
    assert not (terminal.home / "aiwm").exists()


async def test_what_happens_is_watched_until_ctrl_c(terminal: Terminal) -> None:
    await terminal.login()
    watching = await terminal.start("watch", "-o", "json")
    assert watching.stdout is not None
    assert watching.stderr is not None
    async with asyncio.timeout(30):
        assert b"watching" in await watching.stderr.readline()
        await terminal.world.node("gpu-1")
        event = json.loads(await watching.stdout.readline())
        assert (event["event"], event["name"]) == ("service.event", "node.online")
        watching.send_signal(signal.SIGINT)
        assert await watching.wait() == 0
        assert await watching.stderr.read() == b""
    await until(lambda: watching.returncode is not None, "the watcher is gone")
    listed = json.loads(await terminal.ok("notifications", "ls", "-o", "json"))
    assert [each["name"] for each in listed["data"]] == ["node.online"]


async def test_what_is_wrong_with_a_node_and_what_it_measured_can_be_typed(terminal: Terminal) -> None:
    made = await terminal.world.call("POST", "/api/v1/nodes", json={"name": "gpu-1"}, expect=201)
    token = await terminal.world.call("POST", f"/api/v1/nodes/{made['nodeId']}/token", json={}, expect=200)
    async with played(terminal.world, token["token"]) as node:
        device = {"deviceId": "0", "utilization": 40, "health": "error"}
        await node.send("node.register", {"data": {}})
        await node.next("register.ack")
        await node.send("telemetry.metrics", {"cpuUtilization": 12.5, "gpuDevices": [device]})
        await terminal.login()
        assert "GPULost" in await terminal.ok("nodes", "conditions", "gpu-1")
        table = (await terminal.ok("nodes", "metrics", "gpu-1")).splitlines()
        assert table[1].split() == ["cpuUtilization", "-", "12.5", "12.5", "12.5", "12.5", "percent"]
        assert table[2].split()[:3] == ["utilization", "0", "40.0"]
        shown = json.loads(await terminal.ok("nodes", "metrics", "gpu-1", "--hours", "2", "--step", "60", "-o", "json"))
        assert shown["step"] == 60
        refused = await terminal.type("nodes", "metrics", "gpu-1", "--hours", "24", "--step", "10")
        assert refused.code == 1
        assert "ask for 58 seconds or more" in refused.err


async def test_the_gpus_of_each_replica_can_be_typed(terminal: Terminal) -> None:
    world = terminal.world
    await world.node("gpu-1", telemetry=SimulatedTelemetry("gpu-1", 2, random.Random(1)))
    await terminal.login()
    model_id = await ready_model(world)
    body = {"name": "wide", "modelId": model_id, "resources": {"gpuCount": 2}}
    await world.call("POST", "/api/v1/deployments", json=body, expect=201)
    await terminal.ok("deployments", "start", "wide", "--wait")
    title, row = (await terminal.ok("deployments", "replicas", "wide")).splitlines()
    assert title.split()[:4] == ["REPLICA", "STATE", "NODE", "GPUS"]
    assert (row.split()[1], row.split()[3]) == ("running", "0,1")
    (replica,) = json.loads(await terminal.ok("deployments", "replicas", "wide", "-o", "json"))
    shown = json.loads(await terminal.ok("deployments", "get", "wide", "-o", "json"))
    assert replica["gpuDeviceIds"] == shown["replicaStatus"][0]["gpuDeviceIds"] == ["0", "1"]
