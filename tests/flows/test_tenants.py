"""Organizations apart: lists, counts, searches, filters, bodies, topics and news never tell of another's things."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.access_walk import Caller, Tenants

from aiwm.access.principal import Principal
from aiwm.apps.local_node import NAME, ensure_local_node
from aiwm.deployments.placement import Fleet, Gpu, NodeFacts, profile_for
from aiwm.infra.queue.port import Job
from aiwm.kit.ids import new_id
from aiwm.notifications.topics import Topics
from aiwm.protocol.errors import AiwmError
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.deployments import Resources
from aiwm.protocol.resources.nodes import NodeCreate
from aiwm.protocol.states import HardwareProfile, PrincipalKind, Role
from aiwm.testing.world import World, eventually, open_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def tenants(world: World) -> Tenants:
    here = Tenants(world, "", "", "")
    here.own, here.foreign = await here.organization(), await here.organization()
    return here


async def as_(
    world: World, caller: Caller, method: str, path: str, expect: int | None = None, body: object = None
) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {caller.token}"}
    return await world.call(method, path, expect=expect, headers=headers, json=body)


async def _deployment(tenants: Tenants, org_id: str | None) -> str:
    return (await tenants.deployment(org_id))[0]


async def _key(tenants: Tenants, org_id: str | None) -> str:
    return await tenants.api_key(await tenants.user(org_id), org_id)


async def _join_token(tenants: Tenants, org_id: str | None) -> str:
    return (await tenants.join_token(org_id))[0]


MAKE: dict[str, tuple[Callable[[Tenants, str | None], Awaitable[str]], str, bool]] = {
    "nodes": (Tenants.node, "nodeId", True),
    "join-tokens": (_join_token, "joinTokenId", True),
    "models": (Tenants.model, "modelId", True),
    "deployments": (_deployment, "deploymentId", False),
    "users": (Tenants.user, "userId", False),
    "api-keys": (_key, "apiKeyId", False),
}


@pytest.mark.parametrize("noun", MAKE)
async def test_lists_counts_and_searches_show_what_is_own_or_shared_and_nothing_else(
    world: World, tenants: Tenants, noun: str
) -> None:
    owner = await tenants.caller("organization.owner")
    make, id_name, shareable = MAKE[noun]
    own, foreign, nobodys = [await make(tenants, org_id) for org_id in (tenants.own, tenants.foreign, None)]
    path = f"/api/v1/{noun}"
    page = await as_(world, owner, "GET", f"{path}?limit=200", 200)
    ids = {each[id_name] for each in page["data"]}
    assert own in ids
    assert foreign not in ids
    assert (nobodys in ids) is shareable
    assert page["pagination"]["total"] == len(page["data"])
    for hidden in (foreign,) if shareable else (foreign, nobodys):
        found = await as_(world, owner, "GET", f"{path}?q={hidden}", 200)
        assert (found["data"], found["pagination"]["total"]) == ([], 0)
        assert (await as_(world, owner, "GET", f"{path}/{hidden}"))["status"] == 404
    everything = await world.call("GET", f"{path}?limit=200", expect=200)
    listed: Any = everything["data"]
    assert {own, foreign, nobodys} <= {each[id_name] for each in listed}


@pytest.mark.parametrize("noun", MAKE)
async def test_what_is_foreign_answers_exactly_as_what_does_not_exist(
    world: World, tenants: Tenants, noun: str
) -> None:
    make, _, _ = MAKE[noun]
    foreign = await make(tenants, tenants.foreign)
    for role in ("organization.owner", "organization.viewer"):
        caller = await tenants.caller(role)
        for method, body in (("GET", None), ("PATCH", {"metadata": {"a": 1}}), ("DELETE", None)):
            answers = []
            for record_id in (foreign, new_id("none")):
                answer = await as_(world, caller, method, f"/api/v1/{noun}/{record_id}", None, body)
                del answer["correlationId"]
                answers.append(str(answer).replace(record_id, "ID"))
            assert answers[1] == answers[0]
            assert "'status': 404" in answers[0]


WIDENING = (
    "filter[orgId]={foreign}",
    "filter[owner.orgId]={foreign}",
    "filter[owner]={foreign}",
    "filter[deletedAt]=",
    "filter[uniqueKey]={foreign}/x",
    "filter[name][$ne]=x",
    "filter[$or]=x",
    "filter[name]=x&filter[name]=y",
    "orgId={foreign}",
    "sort=owner.orgId",
    "limit=201",
    "limit=0",
    "page=0",
)


async def test_a_list_takes_no_filter_that_could_widen_it(world: World, tenants: Tenants) -> None:
    viewer = await tenants.caller("organization.viewer")
    for noun in ("nodes", "models", "deployments", "join-tokens"):
        for query in WIDENING:
            path = f"/api/v1/{noun}?{query.format(foreign=tenants.foreign)}"
            assert (await as_(world, viewer, "GET", path, 422))["code"] == "VALIDATION_FAILED"


async def test_an_operator_in_a_filters_value_is_text(world: World, tenants: Tenants) -> None:
    viewer = await tenants.caller("organization.viewer")
    await tenants.node(tenants.own)
    headers = {"Authorization": f"Bearer {viewer.token}"}
    for text in ('{"$ne":null}', '{"$gt":""}', "*", ".*", "%", "' OR 1=1 --", "null"):
        for how in ("filter[name]", "q"):
            async with world.http.get(f"{world.url}/api/v1/nodes", params={how: text}, headers=headers) as answer:
                assert answer.status == 200
                assert (await answer.json())["data"] == []


async def test_a_filter_by_organization_narrows_users_to_what_one_sees(world: World, tenants: Tenants) -> None:
    viewer = await tenants.caller("organization.viewer")
    await tenants.user(tenants.foreign)
    path = f"/api/v1/users?filter[orgId]={tenants.foreign}"
    assert (await as_(world, viewer, "GET", path, 200))["pagination"]["total"] == 0
    assert (await as_(world, viewer, "GET", f"/api/v1/users?filter[orgId]={tenants.own}", 200))["data"]
    shown: Any = await world.call("GET", path, expect=200)
    assert shown["pagination"]["total"] == 1


@pytest.mark.parametrize("path", ["/api/v1/deployments", "/api/v1/deployments/plan"])
async def test_a_deployment_names_no_model_and_no_node_of_another_organization(
    world: World, tenants: Tenants, path: str
) -> None:
    editor = await tenants.caller("organization.editor")
    own, foreign = await tenants.model(tenants.own), await tenants.model(tenants.foreign)
    for field, wrong, code in (
        ("modelId", foreign, "MODEL_NOT_FOUND"),
        ("nodeId", await tenants.node(tenants.foreign), "NODE_NOT_FOUND"),
    ):
        answers = []
        for value in (wrong, new_id("none")):
            body = {"name": new_id("d"), "modelId": own, "desired": "stopped", field: value}
            answer = await as_(world, editor, "POST", path, 422, body)
            assert (answer["code"], answer["errors"][0]["field"]) == (code, field)
            answers.append(answer["detail"].replace(value, "ID"))
        assert answers[0] == answers[1]
    shared = {"name": new_id("d"), "modelId": await tenants.model(None), "nodeId": await tenants.node(None)}
    await as_(
        world, editor, "POST", path, 201 if path.endswith("deployments") else 200, {**shared, "desired": "stopped"}
    )


async def test_an_upload_is_found_below_its_own_model_alone(world: World, tenants: Tenants) -> None:
    editor = await tenants.caller("organization.editor")
    own = await tenants.model(tenants.own)
    _, foreign_upload, done = await tenants.upload(tenants.foreign)
    path = f"/api/v1/models/{own}/uploads/{foreign_upload}"
    for method, ending, body in (("GET", "", None), ("DELETE", "", None), ("POST", "/complete", done)):
        answer = await as_(world, editor, method, f"{path}{ending}", 404, body)
        assert answer["code"] == "UPLOAD_NOT_FOUND"


async def test_a_universe_caller_works_on_another_organizations_things_and_they_stay_that_organizations(
    world: World, tenants: Tenants
) -> None:
    deployment = await _deployment(tenants, tenants.foreign)
    path = f"/api/v1/deployments/{deployment}"
    changed: Any = await world.call("PATCH", path, json={"description": "by admin"}, expect=200)
    assert changed["owner"]["orgId"] == tenants.foreign
    started: Any = await world.call("POST", f"{path}/start", expect=202)
    assert started["owner"]["orgId"] == tenants.foreign
    node = await tenants.node(tenants.foreign)
    cordoned: Any = await world.call("POST", f"/api/v1/nodes/{node}/cordon", expect=200)
    assert cordoned["owner"]["orgId"] == tenants.foreign


async def test_shared_nodes_and_models_are_made_by_universe_roles_alone_and_seen_by_all(
    world: World, tenants: Tenants
) -> None:
    owner = await tenants.caller("organization.owner")
    for noun, id_name in (("nodes", "nodeId"), ("models", "modelId")):
        refused = await as_(world, owner, "POST", f"/api/v1/{noun}", 403, {"name": "s", "shared": True})
        assert refused["code"] == "SHARED_DENIED"
        made: Any = await world.call("POST", f"/api/v1/{noun}", json={"name": "s", "shared": True}, expect=201)
        assert made["owner"]["orgId"] is None
        seen = await as_(world, owner, "GET", f"/api/v1/{noun}/{made[id_name]}", 200)
        assert seen["owner"]["orgId"] is None
        own: Any = await world.call("POST", f"/api/v1/{noun}", json={"name": "s"}, expect=201)
        assert own["owner"]["orgId"] is not None


TOPICS: tuple[tuple[str, str, Role, str | None], ...] = (
    ("deployment", "own", Role.ORGANIZATION_VIEWER, None),
    ("deployment", "foreign", Role.ORGANIZATION_OWNER, "NOT_FOUND"),
    ("deployment", "shared", Role.ORGANIZATION_OWNER, "NOT_FOUND"),
    ("deployment", "foreign", Role.UNIVERSE_VIEWER, None),
    ("node", "own", Role.ORGANIZATION_VIEWER, None),
    ("node", "foreign", Role.ORGANIZATION_OWNER, "NOT_FOUND"),
    ("node", "shared", Role.ORGANIZATION_VIEWER, None),
    ("node", "foreign", Role.UNIVERSE_VIEWER, None),
    ("user", "own", Role.UNIVERSE_OWNER, "TOPIC_UNKNOWN"),
)


async def test_a_topic_is_for_who_may_see_the_thing(world: World, tenants: Tenants) -> None:
    make = {"deployment": _deployment, "node": Tenants.node, "user": Tenants.user}
    topics = Topics(world.infra.store)

    async def refusal(who: Principal, topic: str) -> str | None:
        try:
            await topics.check(who, topic, joined=0)
        except AiwmError as refused:
            return refused.code
        return None

    for kind, record, role, code in TOPICS:
        who = Principal(PrincipalKind.USER, "user-1", "ann", tenants.own, frozenset({role}))
        topic = f"{kind}:{await make[kind](tenants, tenants.org_id(record))}"
        assert await refusal(who, topic) == code, (kind, record, role)


async def test_news_of_a_node_reach_its_own_organization_alone(world: World, tenants: Tenants) -> None:
    heard: list[Job] = []

    async def hear(job: Job) -> None:
        heard.append(job)

    world.controller.tasks.spawn("noti queue", world.infra.queues.consume("noti", hear))
    node = await tenants.node(tenants.foreign)
    await world.daemon(node)
    await eventually(lambda: any(node in str(job.data) for job in heard))
    for job in heard:
        told: Any = job.data
        assert told["data"]["recipients"] == {"orgIds": [tenants.foreign]}


async def test_the_machines_own_node_is_not_that_of_another_organization_with_its_name(
    world: World, tenants: Tenants
) -> None:
    owner = Owner(org_id=tenants.foreign)
    stranger = await world.controller.nodes.create(NodeCreate(name=NAME), owner=owner, by=None)
    file = world.folder / "node-token"
    for _ in range(2):
        await ensure_local_node(world.controller.nodes, world.controller.users, file)
        node, _ = await world.controller.nodes.authenticate(file.read_text())
        assert node.id != stranger.node_id
        assert node.owner.org_id not in (None, tenants.foreign)


def test_a_default_hardware_profile_tells_nothing_of_another_organizations_devices() -> None:
    none, gpus = frozenset[str](), (Gpu("0", None),)
    gpu = NodeFacts("n", "n", "org-2", True, True, {}, none, none, gpus, None, None, offline=False)
    assert profile_for(Resources(), Fleet({"n": gpu}), "org-1") is HardwareProfile.CPU
    assert profile_for(Resources(), Fleet({"n": gpu}), "org-2") is HardwareProfile.GPU
