"""What goes wrong on a node: seen as a condition, obeyed by placement, and told to people through NOTI."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.flows.test_road import a_deployment, becomes
from tests.http_support import SetClock, served
from tests.wire.played_node import PlayedNode, a_node_record, played, token_of

from aiwm.apps.noti import compose as compose_noti
from aiwm.kit.tasks import Tasks
from aiwm.nodes.losses import Losses
from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def noti(world: World) -> AsyncIterator[str]:
    """The notification service, reading the queue; where it serves."""
    infra = world.infra
    service = compose_noti(infra.settings, infra.store, infra.queues, infra.tokens, infra.clock)
    await service.prepare()
    async with Tasks() as tasks, served(service.application()) as url:
        tasks.spawn("noti queue", service.consume())
        yield url
    service.access.passwords.close()


async def alerts(world: World, noti_url: str) -> list[dict[str, Any]]:
    """The alerts in admin's inbox, oldest first."""
    async with world.http.get(f"{noti_url}/api/v1/notifications?limit=200") as answer:
        found = (await answer.json())["data"]
    return [each for each in reversed(found) if each["event"] == "service.alert"]


@asynccontextmanager
async def gpu_node(world: World) -> AsyncIterator[tuple[str, PlayedNode]]:
    """A node with two GPUs on which Triton can run."""
    node_id = await a_node_record(world, "gpu-1")
    async with played(world, await token_of(world, node_id)) as node:
        devices = [{"deviceId": each, "model": "H100", "memoryTotal": 80_000, "health": "ok"} for each in "01"]
        await node.send("node.register", {"data": {"engines": [{"name": "triton"}], "gpuDevices": devices}})
        await node.next("register.ack")
        yield node_id, node


async def view(world: World, node_id: str) -> dict[str, Any]:
    return await world.call("GET", f"/api/v1/nodes/{node_id}", expect=200)


async def plan(world: World, model_id: str) -> dict[str, Any]:
    params = {"name": "x", "modelId": model_id}
    return await world.call("POST", "/api/v1/deployments/plan", json=params, expect=200)


async def test_a_gpu_that_is_lost_keeps_new_replicas_away_and_reaches_people_in_seconds(world: World) -> None:
    model_id = await ready_model(world)
    async with noti(world) as url, gpu_node(world) as (node_id, node):
        assert (await plan(world, model_id))["verdict"] == "placed"
        await node.send("telemetry.metrics", {"gpuDevices": [{"deviceId": "1", "health": "error"}]})

        async def cordoned() -> bool:
            return (await view(world, node_id))["schedulable"] is False

        await eventually(cordoned)
        planned = await plan(world, model_id)
        assert planned["verdict"] == "unplaceable"
        assert "GPU 1 (H100) no longer answers" in planned["reason"]
        (condition,) = (await view(world, node_id))["conditions"]
        assert (condition["type"], condition["status"]) == ("GPULost", True)

        async def told() -> bool:
            return [each["name"] for each in await alerts(world, url)] == ["gpu.lost"]

        await eventually(told)
        (alert,) = await alerts(world, url)
        assert (alert["severity"], alert["title"]) == ("critical", "GPU lost on gpu-1")
        assert alert["data"]["nodeId"] == node_id
        assert alert["data"]["devices"] == ["1"]

        await node.send("telemetry.metrics", {"gpuDevices": [{"deviceId": "1", "health": "ok"}]})

        async def free_again() -> bool:
            return (await view(world, node_id))["schedulable"] is True

        await eventually(free_again)
        assert (await plan(world, model_id))["verdict"] == "placed"


async def test_an_xid_after_which_the_gpu_must_be_reset_does_the_same_and_the_wish_of_the_user_stays_as_it_was(
    world: World,
) -> None:
    async with gpu_node(world) as (node_id, node):
        await node.send("telemetry.metrics", {"gpuDevices": [{"deviceId": "0", "xid": 79}]})

        async def cordoned() -> bool:
            return (await view(world, node_id))["schedulable"] is False

        await eventually(cordoned)
        assert world.controller.nodes.record(node_id).schedulable is True
        assert (await view(world, node_id))["resourceVersion"] == 1


async def test_what_the_daemon_says_of_itself_is_shown_and_taken_back(world: World) -> None:
    async with gpu_node(world) as (node_id, node):
        said = {"type": "DriverBroken", "status": True, "reason": "Nvml", "message": "the driver does not answer"}
        await node.send("telemetry.heartbeat", {"status": "degraded", "conditions": [said]})

        async def shown(status: bool) -> bool:
            return [each["status"] for each in (await view(world, node_id))["conditions"]] == [status]

        await eventually(lambda: shown(True))
        await node.send("telemetry.heartbeat", {"status": "healthy"})
        await node.send("telemetry.heartbeat", {"status": "healthy", "conditions": []})
        await eventually(lambda: shown(False))


async def test_a_clock_that_is_wrong_at_two_heartbeats_is_a_condition(world: World) -> None:
    async with gpu_node(world) as (node_id, node):
        for _ in range(2):
            await node.send("telemetry.heartbeat", {"timestamp": "2020-01-01T00:00:00Z", "status": "healthy"})

        async def skewed() -> bool:
            return [each["reason"] for each in (await view(world, node_id))["conditions"]] == ["Behind"]

        await eventually(skewed)


async def test_a_node_with_replicas_that_stays_away_is_lost_and_without_it_is_not(world: World) -> None:
    controller = world.controller
    async with gpu_node(world) as (node_id, node):
        await a_deployment(world, modelId=await ready_model(world))
        await node.next("command.deploy")
    idle = await a_node_record(world, "idle")

    async def offline() -> bool:
        return bool((await view(world, node_id))["status"] == "offline")

    await eventually(offline)
    in_two_minutes = SetClock(world.infra.clock.now() + timedelta(minutes=2))
    occupied = controller.deployments.nodes_in_use
    for isolated, clock in ((False, world.infra.clock), (True, in_two_minutes)):
        await Losses(controller.nodes, occupied, lambda: isolated, lambda: True, clock).look()  # noqa: B023 - called at once
        assert (await view(world, node_id))["conditions"] == []
    await Losses(controller.nodes, occupied, lambda: False, lambda: False, in_two_minutes).look()
    assert (await view(world, node_id))["conditions"] == [], "another controller judges"
    await Losses(controller.nodes, occupied, lambda: False, lambda: True, in_two_minutes).look()
    assert [each["type"] for each in (await view(world, node_id))["conditions"]] == ["NodeLost"]
    assert (await view(world, idle))["conditions"] == []
    async with played(world, await token_of(world, node_id)) as node:
        await node.send("node.register", {"data": {}})
        await node.next("register.ack")
        assert [each["status"] for each in (await view(world, node_id))["conditions"]] == [False]


async def samples(world: World) -> dict[tuple[str, str], float]:
    """What Prometheus gets of nodes, by name and by what tells the samples of one name apart."""
    async with world.http.get(f"{world.url}/metrics") as answer:
        text = await answer.text()
    told = ("gpu", "type", "replica_id", "status")
    return {
        (sample.name, next((sample.labels[name] for name in told if name in sample.labels), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("aiwm_node", "aiwm_replica"))
    }


async def test_prometheus_gets_nodes_gpus_conditions_and_replicas_in_base_units(world: World) -> None:
    async with gpu_node(world) as (_, node):
        made = await a_deployment(world, modelId=await ready_model(world))
        order = await node.next("command.deploy")
        replica_id = order["data"]["replicaId"]
        devices = [{"deviceId": "0", "utilization": 40, "memoryUsed": 2, "temperature": 95, "eccErrors": 3}]
        counted = {"requests": 9, "failures": 1, "promptTokens": 70, "queued": 2, "cacheUsed": 50}
        timed = {"requestSeconds": 4.0, "requestCount": 8, "firstTokenSeconds": 0, "firstTokenCount": 0}
        usage = [{"replicaId": replica_id, "cpuUtilization": 150, "ramUsed": 3, "engine": counted | timed}]
        await node.send(
            "telemetry.metrics",
            {"cpuUtilization": 25, "ramFree": 4, "diskFree": 100_000, "gpuDevices": devices, "replicas": usage},
        )

        async def measured() -> bool:
            return ("aiwm_replica_cpu_ratio", replica_id) in await samples(world)

        await eventually(measured)
        found = await samples(world)
        expected = {
            ("aiwm_nodes", "online"): 1,
            ("aiwm_nodes", "offline"): 0,
            ("aiwm_node_up", ""): 1,
            ("aiwm_node_cpu_utilization_ratio", ""): 0.25,
            ("aiwm_node_memory_free_bytes", ""): 4 * 2**20,
            ("aiwm_node_gpu_up", "1"): 1,
            ("aiwm_node_gpu_utilization_ratio", "0"): 0.4,
            ("aiwm_node_gpu_memory_used_bytes", "0"): 2 * 2**20,
            ("aiwm_node_gpu_memory_total_bytes", "0"): 80_000 * 2**20,
            ("aiwm_node_gpu_temperature_celsius", "0"): 95,
            ("aiwm_node_gpu_ecc_errors_total", "0"): 3,
            ("aiwm_node_condition", "GPUTemperature"): 1,
            ("aiwm_replica_cpu_ratio", replica_id): 1.5,
            ("aiwm_replica_memory_bytes", replica_id): 3 * 2**20,
            ("aiwm_replica_requests_total", replica_id): 9,
            ("aiwm_replica_request_failures_total", replica_id): 1,
            ("aiwm_replica_prompt_tokens_total", replica_id): 70,
            ("aiwm_replica_requests_queued", replica_id): 2,
            ("aiwm_replica_cache_used_ratio", replica_id): 0.5,
            ("aiwm_replica_request_seconds_sum", replica_id): 4,
            ("aiwm_replica_request_seconds_count", replica_id): 8,
        }
        assert expected.items() <= found.items()
        for unknown in ("aiwm_replica_gpu_memory_bytes", "aiwm_replica_generated_tokens_total"):
            assert (unknown, replica_id) not in found
        replicas: Any = await world.call("GET", f"/api/v1/deployments/{made['deploymentId']}/replicas", expect=200)
        (replica,) = replicas["data"]
        assert replica["usage"] == {"cpuUtilization": 150, "ramUsed": 3, "gpuMemoryUsed": None}
        assert replica["engine"] == {
            "requests": 9,
            "failures": 1,
            "promptTokens": 70,
            "generatedTokens": None,
            "running": None,
            "queued": 2,
            "cacheUsed": 50,
            "firstTokenSeconds": None,
            "requestSeconds": 0.5,
        }

    async def down() -> bool:
        return (await samples(world)).get(("aiwm_node_up", "")) == 0

    await eventually(down)
    found = await samples(world)
    assert ("aiwm_node_cpu_utilization_ratio", "") not in found
    assert found[("aiwm_nodes", "offline")] == 1
    (replica,) = (await world.call("GET", f"/api/v1/deployments/{made['deploymentId']}/replicas", expect=200))["data"]  # type: ignore[misc]
    assert (replica["usage"], replica["engine"]) == (None, None)


async def test_an_engine_that_keeps_crashing_is_told_once_with_its_reason(world: World) -> None:
    async with noti(world) as url, gpu_node(world) as (_, node):
        made = await a_deployment(world, modelId=await ready_model(world))
        deployment_id = made["deploymentId"]
        order = await node.next("command.deploy")
        about = {"deploymentId": deployment_id, "replicaId": order["data"]["replicaId"], "generation": 1}
        for restarts in range(1, 6):
            report = {"status": "deploying", "state": "starting", "restarts": restarts, "message": "CUDA is missing"}
            await node.send("deployment.status", about | report)
        await node.send("deployment.status", about | {"status": "failed", "restarts": 5, "message": "gave up"})
        await becomes(world, deployment_id, "failed")

        async def told() -> bool:
            return bool(await alerts(world, url))

        await eventually(told)
        (alert,) = await alerts(world, url)
        assert alert["name"] == "deployment.crashloop"
        assert alert["severity"] == "high"
        assert "3 times again: CUDA is missing" in alert["message"]
        assert alert["data"]["deploymentId"] == deployment_id
        assert alert["data"]["restarts"] == 3


async def test_a_copy_of_a_node_s_identity_is_a_condition_and_an_alert_and_takes_nothing_away(world: World) -> None:
    async with noti(world) as url:
        node_id = await a_node_record(world, "gpu-1")
        token = await token_of(world, node_id)
        async with played(world, token, instance="first"):
            pass
        async with played(world, token, instance="second") as newest:
            await newest.send("node.register", {"data": {}})
            await newest.next("register.ack")
            async with played(world, token, instance="first") as copy:
                assert copy.bodies("connect_error")[0]["data"]["code"] == "NODE_REPLACED"

            async def told() -> bool:
                return [each["name"] for each in await alerts(world, url)] == ["node.cloned"]

            await eventually(told)
            seen = await view(world, node_id)
            assert seen["status"] == "online"
            assert [each["type"] for each in seen["conditions"] if each["status"]] == ["IdentityCloned"]
