"""The main road over REST: upload a model, deploy it on a node, see it run, stop it, delete it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aiwm.infra.queue.port import Job
from aiwm.testing.road import model_is, ready_model
from aiwm.testing.world import World, eventually, open_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def a_deployment(world: World, **params: object) -> dict[str, Any]:
    return await world.call("POST", "/api/v1/deployments", json={"name": "digits", **params}, expect=201)


async def deployment(world: World, deployment_id: str) -> dict[str, Any]:
    return await world.call("GET", f"/api/v1/deployments/{deployment_id}", expect=200)


async def becomes(world: World, deployment_id: str, status: str) -> None:
    async def so() -> bool:
        return bool((await deployment(world, deployment_id))["status"] == status)

    await eventually(so)


async def test_a_model_is_uploaded_deployed_seen_running_stopped_and_deleted(world: World) -> None:
    heard: list[Job] = []

    async def hear(job: Job) -> None:
        heard.append(job)

    world.controller.tasks.spawn("noti queue", world.infra.queues.consume("noti", hear))
    node_id = await world.node("gpu-1")
    model_id = await ready_model(world)
    made = await world.call(
        "POST",
        "/api/v1/deployments",
        json={"name": "digits", "modelId": model_id},
        headers={"X-Correlation-Id": "the-one"},
        expect=201,
    )
    deployment_id = str(made["deploymentId"])
    await becomes(world, deployment_id, "running")
    seen = await deployment(world, deployment_id)
    assert seen["isRunning"] is True
    assert seen["nodeId"] == node_id
    assert seen["containerName"]
    assert seen["containerPort"]
    assert seen["lastHealthCheck"]
    assert seen["observedGeneration"] == seen["generation"] == 1
    assert [event["event"] for event in seen["events"]][:2] == ["replica.placed", "model.deployment.started"]

    await world.call("POST", f"/api/v1/deployments/{deployment_id}/stop", expect=202)
    await becomes(world, deployment_id, "stopped")
    await world.call("DELETE", f"/api/v1/deployments/{deployment_id}")
    await world.call("GET", f"/api/v1/deployments/{deployment_id}", expect=404)

    def names() -> list[object]:
        return [data["data"]["name"] for job in heard if isinstance(data := job.data, dict)]

    await eventually(lambda: "model.deployment.stopped" in names())
    started: Any = next(
        job.data
        for job in heard
        if isinstance(job.data, dict) and job.data["data"]["name"] == "model.deployment.started"
    )
    assert started["data"]["data"] == {"deploymentId": deployment_id, "modelName": "digits", "status": "deploying"}
    assert started["data"]["metadata"]["correlationId"] == "the-one"
    assert {"node.online", "model.upload.completed", "model.deployment.running"} <= set(names())


async def test_deleting_a_running_deployment_stops_it_first(world: World) -> None:
    await world.node("gpu-1")
    made = await a_deployment(world, modelId=await ready_model(world))
    await becomes(world, made["deploymentId"], "running")
    await world.call("DELETE", f"/api/v1/deployments/{made['deploymentId']}", expect=202)

    async def gone() -> bool:
        answer = await world.call("GET", f"/api/v1/deployments/{made['deploymentId']}")
        return answer.get("code") == "DEPLOYMENT_NOT_FOUND"

    await eventually(gone)
    await a_deployment(world, modelId=made["modelId"])


async def test_without_a_node_a_deployment_waits_and_says_why_and_starts_when_one_comes(world: World) -> None:
    made = await a_deployment(world, modelId=await ready_model(world))

    async def waits() -> bool:
        seen = await deployment(world, made["deploymentId"])
        return seen["status"] == "queued" and "no node" in (seen["statusReason"] or "")

    await eventually(waits)
    await world.node("gpu-1")
    await becomes(world, made["deploymentId"], "running")


async def test_a_wrong_hash_fails_the_model_with_the_reason_and_keeps_nothing(world: World) -> None:
    made = await world.call("POST", "/api/v1/models", json={"name": "bad", "framework": "triton"}, expect=201)
    model_id = str(made["modelId"])
    wanted = [{"path": "x", "size": 3, "sha256": "0" * 64}]
    begun: Any = await world.call("POST", f"/api/v1/models/{model_id}/uploads", json={"files": wanted}, expect=201)
    async with world.http.put(begun["files"][0]["parts"][0]["url"], data=b"abc") as answer:
        etag = answer.headers["ETag"]
    done = {"files": [{"path": "x", "parts": [{"partNumber": 1, "etag": etag}]}]}
    await world.call("POST", f"/api/v1/models/{model_id}/uploads/{begun['uploadId']}/complete", json=done, expect=202)
    await eventually(lambda: model_is(world, model_id, "failed"))
    assert "hash" in str((await world.call("GET", f"/api/v1/models/{model_id}"))["error"])
    assert await world.infra.objects.below(f"models/{model_id}") == []


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([{"path": "../x", "size": 1}], "FILE_PATH_INVALID"),
        ([{"path": "/etc/passwd", "size": 1}], "FILE_PATH_INVALID"),
        ([{"path": "a", "size": 0}], "UPLOAD_EMPTY"),
        ([{"path": "a", "size": 1}, {"path": "a", "size": 1}], "FILE_PATH_DUPLICATE"),
        ([{"path": "a", "size": 1}, {"path": "a/b", "size": 1}], "FILE_PATH_DUPLICATE"),
        ([], "VALIDATION_FAILED"),
    ],
)
async def test_a_bad_upload_is_refused_by_code(world: World, files: list[dict[str, object]], code: str) -> None:
    made = await world.call("POST", "/api/v1/models", json={"name": "bad"}, expect=201)
    answer = await world.call("POST", f"/api/v1/models/{made['modelId']}/uploads", json={"files": files}, expect=422)
    assert answer["code"] == code


async def test_a_deployed_model_cannot_be_deleted(world: World) -> None:
    model_id = await ready_model(world)
    await a_deployment(world, modelId=model_id)
    answer = await world.call("DELETE", f"/api/v1/models/{model_id}", expect=409)
    assert answer["code"] == "MODEL_IN_USE"


async def test_a_deployment_of_an_unknown_model_names_the_field(world: World) -> None:
    answer: Any = await world.call("POST", "/api/v1/deployments", json={"name": "x", "modelId": "model-0"}, expect=422)
    assert answer["code"] == "MODEL_NOT_FOUND"
    assert [error["field"] for error in answer["errors"]] == ["modelId"]


async def test_names_are_unique_until_their_owner_is_deleted(world: World) -> None:
    first = await world.call("POST", "/api/v1/nodes", json={"name": "one"}, expect=201)
    assert (await world.call("POST", "/api/v1/nodes", json={"name": "one"}, expect=409))["code"] == "NAME_TAKEN"
    await world.call("DELETE", f"/api/v1/nodes/{first['nodeId']}", expect=204)
    await world.call("POST", "/api/v1/nodes", json={"name": "one"}, expect=201)


async def test_a_patch_needs_the_version_it_was_made_for(world: World) -> None:
    made = await world.call("POST", "/api/v1/nodes", json={"name": "one"}, expect=201)
    path = f"/api/v1/nodes/{made['nodeId']}"
    changed = await world.call("PATCH", path, json={"labels": {"a": "b"}}, headers={"If-Match": '"1"'}, expect=200)
    assert changed["resourceVersion"] == 2
    answer = await world.call("PATCH", path, json={"labels": {}}, headers={"If-Match": '"1"'}, expect=412)
    assert answer["code"] == "VERSION_MISMATCH"


async def test_a_node_with_replicas_cannot_be_deleted_until_they_are_stopped(world: World) -> None:
    node_id = await world.node("gpu-1")
    made = await a_deployment(world, modelId=await ready_model(world))
    await becomes(world, made["deploymentId"], "running")
    answer = await world.call("DELETE", f"/api/v1/nodes/{node_id}", expect=409)
    assert answer["code"] == "NODE_IN_USE"
    await world.call("POST", f"/api/v1/deployments/{made['deploymentId']}/stop", expect=202)
    await becomes(world, made["deploymentId"], "stopped")
    await world.call("DELETE", f"/api/v1/nodes/{node_id}", expect=204)


@pytest.mark.parametrize(
    ("noun", "good", "bad"),
    [
        ("nodes", "filter[status]=online", "filter[status]=offline"),
        ("models", "filter[downloadStatus]=ready", "filter[downloadStatus]=failed"),
        ("deployments", "filter[status]=running", "filter[status]=stopped"),
        ("deployments", "filter[name]=digits", "filter[name]=other"),
        ("deployments", "q=DIGI", "q=nothing"),
    ],
)
async def test_lists_are_filtered_by_what_is_set_and_by_what_is_seen(
    world: World, noun: str, good: str, bad: str
) -> None:
    await world.node("gpu-1")
    made = await a_deployment(world, modelId=await ready_model(world))
    await becomes(world, made["deploymentId"], "running")
    for query, total in ((good, 1), (bad, 0)):
        page: Any = await world.call("GET", f"/api/v1/{noun}?{query}", expect=200)
        assert (len(page["data"]), page["pagination"]["total"]) == (total, total)


@pytest.mark.parametrize(
    "query", ["filter[status][ne]=x", "filter[owner]=x", "limit=201", "page=0", "other=1", "sort=x"]
)
async def test_a_list_refuses_what_it_does_not_know_by_name(world: World, query: str) -> None:
    answer: Any = await world.call("GET", f"/api/v1/nodes?{query}", expect=422)
    assert answer["errors"][0]["field"]
