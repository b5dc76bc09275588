"""The controller is killed and stays away while nodes run engines: not one ends, and nobody is judged in haste."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.faults.link_harness import Node, tiny_triton
from tests.faults.link_site import PASSWORD, Site, a_model, a_site, silence

from aiwm.protocol.resources.nodes import NodeCreate
from aiwm.sdk.client import Client
from aiwm.testing.world import eventually

AWAY_SECONDS = 15.0
LONG_AWAY_SECONDS = 600.0
NODES = 2


@asynccontextmanager
async def nodes_of(site: Site, client: Client) -> AsyncIterator[list[Node]]:
    """Daemons in processes of their own, online."""
    async with AsyncExitStack() as stack:
        nodes = []
        engine = tiny_triton(site.folder)
        for number in range(NODES):
            made = await client.nodes.create(NodeCreate(name=f"gpu-{number}"))
            token = (await client.nodes.token(made.node_id)).token
            node = Node(made.node_id, token, site.folder / made.name, site.url, engine)
            stack.push_async_callback(node.end)
            await node.start()
            nodes.append(node)
        for node in nodes:
            await client.nodes.wait_online(node.node_id, timeout=30)
        yield nodes


async def kill_and_return(folder: Path, away: float) -> None:
    with a_site(folder) as site:
        await site.ready()
        async with Client(site.url) as client:
            await client.login("admin", PASSWORD)
            async with nodes_of(site, client) as nodes:
                params = {"name": "digits", "modelId": await a_model(client), "replicas": NODES}
                deployment_id = (await client.deployments.create(params)).deployment_id
                before = await client.deployments.wait(deployment_id, timeout=60)
                engines = [node.engines() for node in nodes]
                assert [len(each) for each in engines] == [1] * NODES
                site.kill("controller")
                await silence(away)
                assert [node.engines() for node in nodes] == engines
                site.start("controller")
                await site.ready()
                await _as_before(client, deployment_id, nodes)
                assert [node.engines() for node in nodes] == engines
                after = await client.deployments.get(deployment_id)
                assert [(each.replica_id, each.restarts) for each in after.replica_status] == [
                    (each.replica_id, 0) for each in before.replica_status
                ]
                told = [each.event for each in await client.deployments.events(deployment_id)]
                assert not {"replica.lost", "replica.restarted"} & set(told)
                assert told.count("replica.placed") == NODES
                answer = await client.inference.raw(deployment_id, "GET", "v2/health/ready")
                assert (answer.status, answer.body) == (200, b"ok")
                log = (folder / "controller.log").read_text()
                assert "node gone" not in log
                assert "command.stop" not in log
                assert log.count("command.deploy") == NODES


async def _as_before(client: Client, deployment_id: str, nodes: list[Node]) -> None:
    """Every node is back on a second connection; until then it is shown as it was, and its deployment runs."""
    haste: list[str] = []

    async def back() -> bool:
        seen = [await client.nodes.get(node.node_id) for node in nodes]
        haste.extend(each.status.value for each in seen if each.status.value != "online")
        deployment = await client.deployments.get(deployment_id)
        haste.extend([deployment.status.value] if deployment.status.value != "running" else [])
        return all(each.epoch == 2 for each in seen)

    await eventually(back, within=90)
    assert haste == []
    await client.deployments.wait(deployment_id, timeout=30)


async def test_a_killed_controller_that_stays_away_costs_no_engine(tmp_path: Path) -> None:
    await kill_and_return(tmp_path, AWAY_SECONDS)


@pytest.mark.soak
async def test_a_controller_that_is_away_for_ten_minutes_costs_no_engine(tmp_path: Path) -> None:
    await kill_and_return(tmp_path, LONG_AWAY_SECONDS)
