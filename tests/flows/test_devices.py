"""Which GPUs a replica has, true wherever it is said: to the node, by the node, to users, to the engine."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from tests.flows.test_road import a_deployment, becomes, deployment

from aiwm.daemon.engines.base import Engine, EnginePlan
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.daemon.launchers.port import NO_LIMITS, Room, Running
from aiwm.protocol.node_channel import DeployCommand
from aiwm.testing.road import ready_model
from aiwm.testing.simulated import SimulatedTelemetry
from aiwm.testing.world import World, eventually, open_world

MIB = 81_920


class TwoGpus(SimulatedTelemetry):
    """A machine whose GPUs CUDA knows by other names than people do."""

    def __init__(self) -> None:
        super().__init__("gpu-1", 2, random.Random(1))

    def cuda_name(self, device_id: str) -> str:
        return f"GPU-gpu-1-{device_id}"


class NotingLauncher(FakeLauncher):
    """Keeps the orders as they came, and what each engine was given."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: dict[str, DeployCommand] = {}
        self.rooms: list[Room] = []

    def engine(self, order: DeployCommand) -> Engine | None:
        self.orders.setdefault(order.replica_id, order)
        return super().engine(order)

    async def start(self, folder: Path, plan: EnginePlan, room: Room = NO_LIMITS) -> Running:
        self.rooms.append(room)
        return await super().start(folder, plan, room)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def everywhere(world: World, node_id: str, deployment_id: str) -> dict[str, set[tuple[str, ...]]]:
    """The GPUs of each replica of a deployment, by replica, as each view has them: one value where all agree."""
    launcher = world.launchers[node_id]
    assert isinstance(launcher, NotingLauncher)
    path = f"/api/v1/deployments/{deployment_id}"
    embedded: Any = (await deployment(world, deployment_id))["replicaStatus"]
    listed: Any = (await world.call("GET", f"{path}/replicas", expect=200))["data"]
    found: dict[str, set[tuple[str, ...]]] = {}
    for each in (*embedded, *listed):
        found.setdefault(each["replicaId"], set()).add(tuple(each["gpuDeviceIds"]))
    session = world.controller.presence.of(node_id)
    assert session is not None
    for replica_id, views in found.items():
        order = launcher.orders[replica_id]
        room = next(room for room in launcher.rooms if room.name == order.container_id)
        views.add(tuple(order.gpu_device_ids))
        views.add(tuple(order.gpu_device_id.split(",")))
        views.add(tuple(session.inventory[replica_id].gpu_device_ids))
        views.add(tuple(each.removeprefix("GPU-gpu-1-") for each in room.gpus))
    return found


async def served(world: World, model_id: str, name: str, **resources: int) -> str:
    made = await a_deployment(world, name=name, modelId=model_id, resources=resources)
    await becomes(world, made["deploymentId"], "running")
    return str(made["deploymentId"])


async def test_a_replica_of_two_gpus_has_both_in_every_view(world: World) -> None:
    node_id = await world.node("gpu-1", NotingLauncher(), TwoGpus())
    deployment_id = await served(world, await ready_model(world), "wide", gpuCount=2)
    assert list((await everywhere(world, node_id, deployment_id)).values()) == [{("0", "1")}]
    node: Any = await world.call("GET", f"/api/v1/nodes/{node_id}", expect=200)
    assert [each["deviceId"] for each in node["gpuDevices"]] == ["0", "1"]
    assert [each["uuid"] for each in node["gpuDevices"]] == ["GPU-gpu-1-0", "GPU-gpu-1-1"]


async def test_who_asks_later_for_memory_of_a_gpu_gets_one_whatever_the_profile(world: World) -> None:
    await world.node("gpu-1", NotingLauncher(), TwoGpus())
    deployment_id = await served(world, await ready_model(world), "first-on-the-cpu", gpuCount=0)
    path = f"/api/v1/deployments/{deployment_id}"
    changed = await world.call("PATCH", path, json={"resources": {"gpuMemory": 30_000}}, expect=200)
    assert changed["hardwareProfile"] == "cpu"

    async def on_one() -> bool:
        replicas: Any = await world.call("GET", f"{path}/replicas", expect=200)
        return [each["gpuDeviceIds"] for each in replicas["data"] if each["state"] == "running"] == [["0"]]

    await eventually(on_one, within=30)


async def test_two_that_share_a_gpu_both_have_it_in_every_view_and_a_third_has_the_other(world: World) -> None:
    node_id, model_id = await world.node("gpu-1", NotingLauncher(), TwoGpus()), await ready_model(world)
    shares = {"small": 30_000, "large": 45_000}
    for name, share in shares.items():
        deployment_id = await served(world, model_id, name, gpuMemory=share)
        assert list((await everywhere(world, node_id, deployment_id)).values()) == [{("0",)}]
    whole = await served(world, model_id, "whole", gpuCount=1)
    assert list((await everywhere(world, node_id, whole)).values()) == [{("1",)}]
    left = MIB * 95 // 100 - sum(shares.values())
    body = {"name": "more", "modelId": model_id, "resources": {"gpuMemory": left}}
    plan: Any = await world.call("POST", "/api/v1/deployments/plan", json=body, expect=200)
    assert plan["placements"][0]["gpuDeviceIds"] == ["0"]
    assert plan["placements"][0]["reason"] == f"gpu-1 fits best: {left} MiB of the free {left} MiB of GPU 0"
    body["resources"] = {"gpuMemory": left + 1}
    plan = await world.call("POST", "/api/v1/deployments/plan", json=body, expect=200)
    assert plan["reason"] == f"no node fits: 1 x it has 0 GPUs with {left + 1} MiB to spare of the 1 needed"
