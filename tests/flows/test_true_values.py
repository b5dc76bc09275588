"""After the main road every field of Node, Model and Deployment carries a true value; which may be null, and why."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from tests.flows.test_road import a_deployment, becomes, deployment

from aiwm.protocol.resources.deployments import Deployment
from aiwm.protocol.resources.models import Model
from aiwm.protocol.resources.nodes import Node
from aiwm.testing.road import TINY_MODEL, ready_model
from aiwm.testing.world import World, eventually, open_world

NOT_DELETED = "nobody has deleted it"
NODE_NULL = {
    "deletedAt": NOT_DELETED,
    "containerRuntime": "a machine without Docker has none",
    "cpuModel": "some kernels do not say",
}
NODE_EMPTY = {
    "gpuDevices": "a machine without GPUs has none",
    "labels": "nobody gave it any",
    "conditions": "all is well",
    "metadata": "nobody gave it any",
}
MODEL_NULL = {
    "deletedAt": NOT_DELETED,
    "huggingfaceRepo": "its files were uploaded",
    "revision": "its files were uploaded",
    "error": "all is well",
}
MODEL_EMPTY = {"metadata": "nobody gave it any"}
DEPLOYMENT_NULL = {
    "deletedAt": NOT_DELETED,
    "pinnedNodeId": "nobody pinned it",
    "statusReason": "all is well",
    "image": "the engine is a process",
    "healthPath": "Triton knows its own",
    "port": "Triton knows its own",
}
DEPLOYMENT_EMPTY = {
    "engineArgs": "nobody gave it any",
    "environmentVariables": "nobody gave it any",
    "nodeSelector": "nobody gave it any",
    "metadata": "nobody gave it any",
}
REPLICA_NULL = {"message": "all is well"}
REPLICA_EMPTY = {"gpuDeviceIds": "it runs on the CPU"}


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


def names(kind: Any) -> set[str]:
    return set(kind.model_json_schema(by_alias=True, mode="serialization")["properties"])


def without_value(seen: dict[str, Any], null: dict[str, str], empty: dict[str, str]) -> dict[str, Any]:
    """The fields that have no value and may not be without."""
    return {
        name: value
        for name, value in seen.items()
        if (value is None and name not in null) or (value in ("", [], {}) and name not in empty)
    }


def is_of_a_user(seen: dict[str, Any], me: dict[str, Any]) -> None:
    assert seen["owner"] == {"orgId": me["orgId"], "userId": me["userId"]}
    assert seen["createdBy"] == seen["updatedBy"] == me["userId"]
    assert seen["createdAt"] <= seen["updatedAt"]
    assert seen["resourceVersion"] == 1


async def test_every_field_carries_a_true_value_after_the_road(world: World) -> None:
    me = await world.call("GET", "/api/v1/auth/me", expect=200)
    node_id = await world.node("gpu-1")
    model_id = await described_model(world)
    made = await a_deployment(world, modelId=model_id, description="reads digits")
    deployment_id = made["deploymentId"]
    await becomes(world, deployment_id, "running")
    world.controller.usage.count(deployment_id, 12.5)
    world.controller.usage.count(deployment_id, 7.5)

    async def used() -> bool:
        return bool((await deployment(world, deployment_id))["totalInferences"] == 2)

    await eventually(used)
    the_node(await world.call("GET", f"/api/v1/nodes/{node_id}", expect=200), me, node_id)
    the_model(await world.call("GET", f"/api/v1/models/{model_id}", expect=200), me, model_id)
    the_deployment(await deployment(world, deployment_id), me, (deployment_id, model_id, node_id), world.url)


async def described_model(world: World) -> str:
    model_id = await ready_model(world)
    change = {"description": "ten digits", "taskType": "cv"}
    before = await world.call("GET", f"/api/v1/models/{model_id}", expect=200)
    await world.call(
        "PATCH",
        f"/api/v1/models/{model_id}",
        json=change,
        headers={"If-Match": str(before["resourceVersion"])},
        expect=200,
    )
    return model_id


def the_node(seen: dict[str, Any], me: dict[str, Any], node_id: str) -> None:
    assert seen.keys() == names(Node)
    assert without_value(seen, NODE_NULL, NODE_EMPTY) == {}
    is_of_a_user(seen, me)
    assert (seen["nodeId"], seen["name"], seen["role"], seen["status"]) == (node_id, "gpu-1", ["worker"], "online")
    assert seen["cpuCores"] > 0
    assert 0 < seen["ramFree"] <= seen["ramTotal"]
    assert 0 < seen["diskFree"] <= seen["diskTotal"]
    assert (seen["schedulable"], seen["maintenance"], seen["epoch"]) == (True, False, 1)
    assert seen["createdAt"] <= seen["connectedAt"] <= seen["lastHeartbeat"]
    assert seen["uptimeSeconds"] > 0
    assert all(seen["os"].values())


def the_model(seen: dict[str, Any], me: dict[str, Any], model_id: str) -> None:
    assert seen.keys() == names(Model)
    assert without_value(seen, MODEL_NULL, MODEL_EMPTY) == {}
    is_of_a_user({**seen, "resourceVersion": seen["resourceVersion"] - 1}, me)
    said = ("modelId", "name", "description", "source", "version", "framework", "taskType", "downloadStatus")
    assert [seen[name] for name in said] == [
        model_id,
        "digits",
        "ten digits",
        "custom",
        "1",
        "triton",
        "cv",
        "ready",
    ]
    size = sum(len(content) for content in TINY_MODEL.values())
    assert seen["size"] == size
    assert seen["progress"] == {"bytesDone": size, "bytesTotal": size, "files": len(TINY_MODEL)}
    assert seen["storagePath"].startswith(f"models/{model_id}/")
    assert seen["files"] == [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in sorted(TINY_MODEL.items())
    ]


def the_deployment(seen: dict[str, Any], me: dict[str, Any], ids: tuple[str, str, str], url: str) -> None:
    assert seen.keys() == names(Deployment)
    assert without_value(seen, DEPLOYMENT_NULL, DEPLOYMENT_EMPTY) == {}
    is_of_a_user(seen, me)
    assert (seen["deploymentId"], seen["modelId"], seen["nodeId"]) == ids
    said = ("name", "description", "environment", "deploymentType", "replicas", "hardwareProfile", "engine")
    assert [seen[name] for name in said] == ["digits", "reads digits", "dev", "single", 1, "cpu", "triton"]
    assert (seen["status"], seen["isRunning"], seen["desired"]) == ("running", True, "running")
    assert (seen["generation"], seen["observedGeneration"]) == (1, 1)
    assert seen["endpoint"] == f"{url}/api/v1/deployments/{ids[0]}/inference"
    assert (seen["totalInferences"], seen["averageLatency"]) == (2, 10.0)
    assert 0 < seen["uptime"] < 60
    assert seen["createdAt"] <= seen["lastHealthCheck"]
    assert seen["strategy"] == {"maxSurge": 1, "maxUnavailable": 0}
    (replica,) = seen["replicaStatus"]
    assert without_value(replica, REPLICA_NULL, REPLICA_EMPTY) == {}
    assert (replica["nodeId"], replica["state"], replica["restarts"]) == (ids[2], "running", 0)
    assert (replica["containerName"], replica["containerPort"]) == (seen["containerName"], seen["containerPort"])
    assert seen["createdAt"] <= replica["startedAt"]
    assert [event["event"] for event in seen["events"]][-1] == "model.deployment.running"
    assert all(event["message"] and event["severity"] == "info" for event in seen["events"])
    assert [event["timestamp"] for event in seen["events"]] == sorted(event["timestamp"] for event in seen["events"])
