"""Two controllers of one installation: each can do for every node what the one that holds it can."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.peer_support import Balancer, Site, open_site

from aiwm.infra.bus import circle, feed
from aiwm.infra.queue.port import Job
from aiwm.testing.road import ready_model
from aiwm.testing.world import World, eventually


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as opened:
        yield opened


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed five times as soon."""
    monkeypatch.setattr(circle, "BEAT_SECONDS", 0.4)
    monkeypatch.setattr(circle, "SILENT_SECONDS", 2.0)
    monkeypatch.setattr(feed, "_POLL_SECONDS", 1.0)


async def sees(world: World, node_id: str, *, held_by: World | None) -> None:
    """Waits until the controller knows the node's registered session, and who holds it; None: itself."""

    def so() -> bool:
        session = world.controller.presence.of(node_id)
        holder = None if held_by is None else held_by.controller.circle.own_id
        return session is not None and session.registered and session.holder == holder

    await eventually(so, within=20)


async def deployment(world: World, deployment_id: str) -> dict[str, Any]:
    return await world.call("GET", f"/api/v1/deployments/{deployment_id}")


async def becomes(world: World, deployment_id: str, status: str, within: float = 10.0) -> None:
    async def so() -> bool:
        return bool((await deployment(world, deployment_id)).get("status") == status)

    await eventually(so, within=within)


async def deployed(world: World, model_id: str, **params: object) -> str:
    body = {"name": "digits", "modelId": model_id, **params}
    return str((await world.call("POST", "/api/v1/deployments", json=body, expect=201))["deploymentId"])


async def test_what_is_wished_at_one_is_done_on_a_node_of_the_other(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    node_id = await site.node(two, "gpu-1")
    await sees(one, node_id, held_by=two)
    deployment_id = await deployed(one, await ready_model(one))
    for world in (one, two):
        await becomes(world, deployment_id, "running")
        path = f"/api/v1/deployments/{deployment_id}"
        async with world.http.get(f"{world.url}{path}/logs") as answer:
            assert await answer.text() == "a line\n"
        async with world.http.get(f"{world.url}{path}/inference/v2/health") as answer:
            assert await answer.text() == "from the engine"
    await one.call("POST", f"/api/v1/deployments/{deployment_id}/stop", expect=202)
    for world in (one, two):
        await becomes(world, deployment_id, "stopped")
    await one.call("DELETE", f"/api/v1/deployments/{deployment_id}", expect=204)

    async def gone() -> bool:
        return (await deployment(two, deployment_id)).get("code") == "DEPLOYMENT_NOT_FOUND"

    await eventually(gone)
    assert site.launchers[node_id].starts == 1


async def test_a_deployment_made_at_either_is_found_and_changed_at_the_other_within_a_second(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    model_id = await ready_model(one)
    for here, there in ((one, two), (two, one)):
        deployment_id = await deployed(here, model_id, name=f"made-at-{site.worlds.index(here)}")

        async def found(world: World = there, deployment_id: str = deployment_id) -> bool:
            return (await deployment(world, deployment_id)).get("deploymentId") == deployment_id

        await eventually(found, within=1.0)
        changed = await there.call("POST", f"/api/v1/deployments/{deployment_id}/scale", json={"replicas": 3})

        async def so(world: World = here, deployment_id: str = deployment_id) -> bool:
            return (await deployment(world, deployment_id)).get("replicas") == 3

        assert changed["generation"] == 2
        await eventually(so, within=1.0)


async def test_one_of_two_plans_and_when_it_dies_the_other_does_within_ten_seconds(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    await eventually(lambda: site.planning() == [one])
    model_id = await ready_model(two)
    node_id = await site.node(two, "gpu-1")
    await sees(one, node_id, held_by=two)
    first = await deployed(two, model_id, name="first")
    await becomes(two, first, "running")
    await site.die(one)
    second = await deployed(two, model_id, name="second")
    await becomes(two, second, "running", within=10.0)
    assert site.launchers[node_id].starts == 2


async def test_when_a_controller_dies_its_nodes_come_to_the_other_and_nothing_is_started_again(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    async with Balancer(two.infra.settings.port, one.infra.settings.port) as balancer:
        node_id = await site.node(two, "gpu-1", balancer.url)
        await sees(one, node_id, held_by=two)
        deployment_id = await deployed(one, await ready_model(one))
        await becomes(one, deployment_id, "running")
        await site.die(two)
        path = f"/api/v1/deployments/{deployment_id}/inference/v2/health"
        async with one.http.get(f"{one.url}{path}") as answer:
            assert await answer.text() == "from the engine", "an engine serves while its node looks for a controller"
        await sees(one, node_id, held_by=None)
        await becomes(one, deployment_id, "running")
        await one.call("POST", f"/api/v1/deployments/{deployment_id}/stop", expect=202)
        await becomes(one, deployment_id, "stopped")
        assert site.launchers[node_id].starts == 1


async def test_a_node_that_moved_is_commanded_where_it_is_and_its_older_connection_is_ended(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    async with Balancer(one.infra.settings.port) as balancer:
        node_id = await site.node(one, "gpu-1", balancer.url)
        await sees(two, node_id, held_by=one)
        deployment_id = await deployed(one, await ready_model(one))
        await becomes(one, deployment_id, "running")
        for here, there in ((two, one), (one, two)):
            balancer.ports = [here.infra.settings.port]
            await balancer.drop()
            await sees(here, node_id, held_by=None)
            await sees(there, node_id, held_by=here)
            await eventually(lambda there=there: not there.controller.channel._records)  # type: ignore[misc]
            for world in site.worlds:
                async with world.http.get(f"{world.url}/api/v1/deployments/{deployment_id}/logs") as answer:
                    assert await answer.text() == "a line\n"
        assert site.launchers[node_id].starts == 1
        assert (await one.call("GET", f"/api/v1/nodes/{node_id}"))["status"] == "online"


async def test_half_of_all_messages_lost_doubled_or_late_delays_and_breaks_nothing(site: Site) -> None:
    one, two = await site.controller(chance=0.5), await site.controller(chance=0.5)
    node_id = await site.node(two, "gpu-1")
    model_id = await ready_model(one)
    await sees(one, node_id, held_by=two)
    names = [await deployed((one, two)[n % 2], model_id, name=f"digits-{n}") for n in range(6)]
    for deployment_id in names:
        for world in (one, two):
            await becomes(world, deployment_id, "running", within=60)
    for n, deployment_id in enumerate(names):
        await (two, one)[n % 2].call("POST", f"/api/v1/deployments/{deployment_id}/stop", expect=202)
    for deployment_id in names:
        for world in (one, two):
            await becomes(world, deployment_id, "stopped", within=60)
    assert site.launchers[node_id].starts == 6


@pytest.mark.usefixtures("hasty")
async def test_a_command_to_a_controller_that_died_a_moment_ago_fails_at_once(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    node_id = await site.node(two, "gpu-1")
    await sees(one, node_id, held_by=two)
    deployment_id = await deployed(one, await ready_model(one))
    await becomes(one, deployment_id, "running")
    await site.die(two)
    assert one.controller.presence.of(node_id) is not None, "its silence is not long yet"
    answer = await one.call("GET", f"/api/v1/deployments/{deployment_id}/logs", expect=503)
    assert answer["code"] == "NODE_OFFLINE"
    await eventually(lambda: one.controller.presence.of(node_id) is None)
    assert (await deployment(one, deployment_id))["status"] == "running", "silence is not death"


@pytest.mark.usefixtures("hasty")
async def test_without_the_bus_each_goes_on_with_its_own_nodes_and_they_agree_again_afterwards(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    nodes = {world.url: await site.node(world, f"gpu-{n}") for n, world in enumerate((one, two))}
    await sees(one, nodes[two.url], held_by=two)
    await sees(two, nodes[one.url], held_by=one)
    model_id = await ready_model(one)
    site.exchange.leave()
    alone = await deployed(one, model_id, name="alone", nodeId=nodes[one.url])
    await becomes(one, alone, "running")
    await eventually(lambda: one.controller.presence.of(nodes[two.url]) is None)
    late = await deployed(two, model_id, name="late", nodeId=nodes[one.url])
    await becomes(one, late, "running", within=30)
    site.exchange.come_back()
    await sees(one, nodes[two.url], held_by=two)
    await sees(two, nodes[one.url], held_by=one)
    for deployment_id in (alone, late):
        await becomes(two, deployment_id, "running")
    await eventually(lambda: len(site.planning()) == 1)


async def test_a_controller_that_starts_without_the_bus_plans(site: Site) -> None:
    site.exchange.leave()
    one = await site.controller()
    node_id = await one.node("gpu-1")
    deployment_id = await deployed(one, await ready_model(one))
    await becomes(one, deployment_id, "running")
    site.exchange.come_back()
    two = await site.controller()
    await sees(two, node_id, held_by=one)
    await becomes(two, deployment_id, "running")


async def test_a_controller_that_stops_in_good_order_hands_over_at_once(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    await eventually(lambda: site.planning() == [one])
    one.controller.circle.leave()
    await eventually(lambda: not two.controller.circle.members)
    await site.closing[0].aclose()
    await eventually(lambda: two.controller.lease.held, within=3.0)


async def test_two_that_plan_at_once_start_nothing_twice(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    for bus in site.buses:
        bus.lavish = True
    await eventually(lambda: site.planning() == [one, two])
    nodes = [await site.node(world, f"gpu-{n}") for n, world in enumerate((one, two))]
    await sees(one, nodes[1], held_by=two)
    await sees(two, nodes[0], held_by=one)
    model_id = await ready_model(one)
    wished = [await deployed((one, two)[n % 2], model_id, name=f"digits-{n}", replicas=3) for n in range(6)]
    for deployment_id in wished:
        for world in (one, two):
            await becomes(world, deployment_id, "running", within=30)
            world.controller.reconciler._dirty.mark_all()
    assert sum(launcher.starts for launcher in site.launchers.values()) == 18
    for deployment_id in wished:
        await one.call("POST", f"/api/v1/deployments/{deployment_id}/stop", expect=202)
    for deployment_id in wished:
        await becomes(two, deployment_id, "stopped", within=30)
    assert sum(launcher.starts for launcher in site.launchers.values()) == 18


async def test_what_happens_to_a_node_is_told_once_and_seen_at_both(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    told: dict[str, str] = {}

    async def hear(job: Job) -> None:
        assert isinstance(job.data, dict)
        told[job.id] = job.data["data"]["name"]

    for world in (one, two):
        world.controller.tasks.spawn("noti queue", world.infra.queues.consume("noti", hear))
    async with Balancer(two.infra.settings.port) as balancer:
        node_id = await site.node(two, "gpu-1", balancer.url)
        await sees(one, node_id, held_by=two)
        await one.call("POST", f"/api/v1/nodes/{node_id}/cordon", expect=200)
        for status in ("online", "offline"):
            for world in (one, two):

                async def so(world: World = world, status: str = status) -> bool:
                    node = await world.call("GET", f"/api/v1/nodes/{node_id}")
                    return (node["status"], node["schedulable"]) == (status, False)

                await eventually(so)
            if status == "online":
                balancer.ports = []
                await balancer.drop()
    await eventually(lambda: sorted(told.values()) == ["node.offline", "node.online"])


async def test_a_command_for_a_connection_that_is_no_more_is_not_sent_over_the_next(site: Site) -> None:
    one, two = await site.controller(), await site.controller()
    node_id = await site.node(two, "gpu-1")
    await sees(one, node_id, held_by=two)
    deployment_id = await deployed(one, await ready_model(one))
    await becomes(one, deployment_id, "running")
    session = one.controller.presence.of(node_id)
    assert session is not None
    session.epoch -= 1
    answer = await one.call("GET", f"/api/v1/deployments/{deployment_id}/logs", expect=503)
    assert answer["code"] == "NODE_OFFLINE"
