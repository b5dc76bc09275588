"""The last lines of an engine that ended: from its node to the store, and from there to who asks without the node."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from tests.access_walk import Tenants
from tests.flows.test_road import a_deployment, becomes
from tests.wire.played_node import a_node_record, played, token_of

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.deployments.last_logs import REPLICA_LOGS
from aiwm.infra.store.port import Query
from aiwm.protocol import node_channel as wire
from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually, open_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


class Crashed:
    """A deployment on a node of its own whose engine wrote two lines and ended."""

    def __init__(self, world: World) -> None:
        self.world, self.launcher = world, FakeLauncher()
        self.launcher.written = "loading\nout of memory\n"

    async def happen(self) -> "Crashed":
        self.node_id = await a_node_record(self.world, "gpu-1")
        self.daemon: Daemon = await self.world.daemon(self.node_id, self.launcher)
        made = await a_deployment(self.world, modelId=await ready_model(self.world))
        self.deployment_id = str(made["deploymentId"])
        await becomes(self.world, self.deployment_id, "running")
        (self.replica,) = (await replicas(self.world, self.deployment_id))["data"]
        folder = self.world.folder / self.node_id / "node/replicas" / self.replica["replicaId"]
        self.launcher.crash(folder, "was killed by signal 9 (SIGKILL)")

        async def kept() -> bool:
            return len(await self.world.infra.store.find(REPLICA_LOGS, Query())) == 1

        await eventually(kept)
        return self

    async def gone(self) -> None:
        self.daemon.stop()

        async def offline() -> bool:
            return (await self.world.call("GET", f"/api/v1/nodes/{self.node_id}"))["status"] == "offline"

        await eventually(offline)


async def replicas(world: World, deployment_id: str) -> dict[str, Any]:
    return await world.call("GET", f"/api/v1/deployments/{deployment_id}/replicas", expect=200)


async def logs(world: World, deployment_id: str, query: str = "", **headers: str) -> tuple[int, str | None, str]:
    url = f"{world.url}/api/v1/deployments/{deployment_id}/logs{query}"
    async with world.http.get(url, headers=headers) as answer:
        return answer.status, answer.headers.get("X-Log-Source"), await answer.text()


async def test_they_are_read_when_the_node_is_gone_and_say_that_they_were_stored(world: World) -> None:
    crashed = await Crashed(world).happen()
    assert (await logs(world, crashed.deployment_id))[:2] == (200, "node")
    await crashed.gone()
    assert await logs(world, crashed.deployment_id) == (200, "stored", "loading\nout of memory\n")
    assert await logs(world, crashed.deployment_id, "?tail=1") == (200, "stored", "out of memory\n")
    assert await logs(world, crashed.deployment_id, "?follow=true") == (200, "stored", "loading\nout of memory\n")
    events = await logs(world, crashed.deployment_id, Accept="text/event-stream")
    assert events == (200, "stored", "data: loading\n\ndata: out of memory\n\n")
    (record,) = await world.infra.store.find(REPLICA_LOGS, Query())
    assert record["reason"] == "was killed by signal 9 (SIGKILL)"
    assert record["nodeId"] == crashed.node_id


async def test_they_go_with_the_deployment(world: World) -> None:
    crashed = await Crashed(world).happen()
    await world.call("POST", f"/api/v1/deployments/{crashed.deployment_id}/stop", expect=202)
    await becomes(world, crashed.deployment_id, "stopped")
    assert await logs(world, crashed.deployment_id) == (200, "stored", "loading\nout of memory\n")
    await world.call("DELETE", f"/api/v1/deployments/{crashed.deployment_id}", expect=204)
    assert await world.infra.store.find(REPLICA_LOGS, Query()) == []


async def test_without_any_the_answer_is_that_the_node_is_away(world: World) -> None:
    crashed = await Crashed(world).happen()
    await crashed.gone()
    await world.infra.store.delete(REPLICA_LOGS, crashed.replica["replicaId"])
    status, source, text = await logs(world, crashed.deployment_id)
    assert (status, source) == (503, None)
    assert "NODE_OFFLINE" in text


async def test_a_node_writes_about_its_own_replicas_alone(world: World) -> None:
    crashed = await Crashed(world).happen()
    report = wire.DeploymentLogs(
        deployment_id=crashed.deployment_id,
        replica_id=crashed.replica["replicaId"],
        generation=99,
        lines=["a lie"],
    )
    async with played(world, await token_of(world, await a_node_record(world, "other"))) as other:
        await other.next(wire.CONNECTION_ACK)
        await other.send(wire.NODE_REGISTER, {"data": {}})
        for data in (
            report.to_wire(),
            report.to_wire() | {"replicaId": "replica-of-nobody"},
            report.to_wire() | {"deploymentId": "deploy-of-nobody"},
        ):
            await other.send(wire.DEPLOYMENT_LOGS, {"data": data})
        await other.send(wire.DEPLOYMENT_LOGS, {"messageId": "msg-last", "data": {"lines": 7}})
        refused = await other.next(wire.ERROR)
        assert refused["data"]["originalMessageId"] == "msg-last"
    (record,) = await world.infra.store.find(REPLICA_LOGS, Query())
    assert record["lines"] == ["loading", "out of memory"]


async def test_what_comes_late_or_twice_takes_no_newer_ones_place(world: World) -> None:
    crashed = await Crashed(world).happen()
    keep, own = world.controller.deployments.last_logs, crashed.replica["replicaId"]

    async def lines() -> list[str]:
        found = await keep.of(own)
        assert found is not None
        return found.lines

    for restarts, text in ((1, "second"), (1, "second"), (0, "first")):
        report = wire.DeploymentLogs(
            deployment_id=crashed.deployment_id, replica_id=own, generation=1, restarts=restarts, lines=[text]
        )
        assert await keep.keep(crashed.node_id, report)
        assert await lines() == ["second"]


async def test_another_organization_reads_none_of_it(world: World) -> None:
    crashed = await Crashed(world).happen()
    tenants = Tenants(world, "", "", "")
    tenants.own = await tenants.organization()
    stranger = await tenants.caller("organization.owner")
    headers = {"Authorization": f"Bearer {stranger.token}"}
    before = await logs(world, crashed.deployment_id, **headers)
    await crashed.gone()
    after = await logs(world, crashed.deployment_id, **headers)
    assert (before[0], after[0]) == (404, 404)
    assert "memory" not in before[2] + after[2]
