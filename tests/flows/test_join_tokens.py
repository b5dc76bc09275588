"""Join tokens and joining over REST: what is shown, what is refused, and what goes on record."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.access_walk import Tenants, an_address

from aiwm.infra.store.port import Query
from aiwm.testing.world import World, open_world

TOKENS, JOIN = "/api/v1/join-tokens", "/api/v1/nodes/join"


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def made(world: World, **body: object) -> dict[str, Any]:
    return await world.call("POST", TOKENS, json=body, expect=201)


async def join(world: World, token: object, name: str, expect: int = 201, **more: object) -> dict[str, Any]:
    """As a machine does: nobody signed in, from an address of its own."""
    headers = {"Authorization": "", "X-Forwarded-For": an_address()}
    body = {"joinToken": token, "name": name, **more}
    return await world.call("POST", JOIN, json=body, headers=headers, expect=expect)


async def test_a_token_is_shown_once_and_what_joins_by_it_is_what_it_says(world: World) -> None:
    token = await made(world, role=["storage"], labels={"zone": "a"}, expiresIn=3600, metadata={"ticket": 7})
    token_id = token["joinTokenId"]
    shown = await world.call("GET", f"{TOKENS}/{token_id}", expect=200)
    assert shown == {name: value for name, value in token.items() if name != "token"}
    assert (shown["status"], shown["usedAt"], shown["usedBy"], shown["nodeId"]) == ("unused", None, None, None)
    assert token["token"].endswith(str(shown["hint"]))
    joined = await join(world, token["token"], "gpu-1")
    assert set(joined) == {"nodeId", "token", "expiresAt"}
    node = await world.call("GET", f"/api/v1/nodes/{joined['nodeId']}", expect=200)
    assert (node["name"], node["role"], node["labels"]) == ("gpu-1", ["storage"], {"zone": "a"})
    assert (node["owner"], node["createdBy"]) == (token["owner"], token["createdBy"])
    opened, _ = await world.controller.nodes.authenticate(joined["token"])
    assert opened.id == joined["nodeId"]
    used = await world.call("GET", f"{TOKENS}/{token_id}", expect=200)
    assert (used["status"], used["usedBy"]) == ("used", joined["nodeId"])
    assert used["usedAt"] is not None
    assert used["resourceVersion"] == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"expiresIn": 3601}, "expiresIn"),
        ({"expiresIn": 59}, "expiresIn"),
        ({"role": []}, "role"),
        ({"role": ["owner"]}, "role[0]"),
        ({"name": "x"}, "name"),
        ({"nodeId": "node-1", "role": ["worker"]}, "body"),
        ({"nodeId": "node-1", "labels": {}}, "body"),
        ({"nodeId": "node-1"}, "nodeId"),
    ],
    ids=str,
)
async def test_what_does_not_fit_a_join_token_is_named(world: World, body: dict[str, object], field: str) -> None:
    refused = await world.call("POST", TOKENS, json=body, expect=422)
    errors: Any = refused["errors"]
    assert [each["field"] for each in errors] == [field]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"labels": {"zone": "b"}}, "labels"),
        ({"role": ["worker"]}, "role"),
        ({"owner": {"orgId": "org-1"}}, "owner"),
        ({"joinKey": "short"}, "joinKey"),
        ({"name": "a/b"}, "name"),
    ],
    ids=str,
)
async def test_a_machine_says_its_name_and_nothing_that_is_the_tokens(
    world: World, body: dict[str, object], field: str
) -> None:
    token = (await made(world))["token"]
    refused = await join(world, token, **{"name": "n", "expect": 422, **body})  # type: ignore[arg-type]
    assert [each["field"] for each in refused["errors"]] == [field]
    await join(world, token, "n")


async def test_each_refusal_has_its_code_and_a_taken_name_costs_no_token(world: World) -> None:
    token = (await made(world))["token"]
    await world.call("POST", "/api/v1/nodes", json={"name": "taken"}, expect=201)
    assert (await join(world, token, "taken", 409))["code"] == "NAME_TAKEN"
    await join(world, token, "free")
    assert (await join(world, token, "another", 401))["code"] == "JOIN_TOKEN_USED"
    assert (await join(world, "aiwm_join_none_x", "n", 401))["code"] == "JOIN_TOKEN_INVALID"
    revoked = await made(world)
    await world.call("DELETE", f"{TOKENS}/{revoked['joinTokenId']}", expect=204)
    assert (await join(world, revoked["token"], "n", 401))["code"] == "JOIN_TOKEN_INVALID"
    assert (await world.call("GET", f"{TOKENS}/{revoked['joinTokenId']}"))["code"] == "JOIN_TOKEN_NOT_FOUND"
    await world.call("DELETE", f"{TOKENS}/{revoked['joinTokenId']}", expect=404)


async def test_lists_tell_used_unused_and_expired_ones_apart(world: World) -> None:
    used, unused, expired = await made(world), await made(world), await made(world, expiresIn=60)
    await join(world, used["token"], "n")
    store = world.infra.store
    record = await store.get("joinTokens", expired["joinTokenId"])
    assert record is not None
    await store.replace("joinTokens", {**record, "expiresAt": record["createdAt"]}, version=1)
    for status, token in (("used", used), ("unused", unused), ("expired", expired)):
        page: Any = await world.call("GET", f"{TOKENS}?filter[status]={status}", expect=200)
        assert [each["joinTokenId"] for each in page["data"]] == [token["joinTokenId"]]
        assert [each["status"] for each in page["data"]] == [status]
        assert page["pagination"]["total"] == 1
    wrong: Any = await world.call("GET", f"{TOKENS}?filter[status]=new", expect=422)
    assert wrong["errors"][0]["field"] == "filter[status]"
    ordered: Any = await world.call("GET", f"{TOKENS}?sort=-expiresAt&limit=1", expect=200)
    assert ordered["data"][0]["joinTokenId"] in (used["joinTokenId"], unused["joinTokenId"])


async def test_a_change_obeys_if_match_and_touches_nothing_else(world: World) -> None:
    token = await made(world)
    path = f"{TOKENS}/{token['joinTokenId']}"
    changed = await world.call("PATCH", path, json={"metadata": {"a": 1}}, headers={"If-Match": '"1"'}, expect=200)
    assert (changed["metadata"], changed["resourceVersion"]) == ({"a": 1}, 2)
    stale = await world.call("PATCH", path, json={"metadata": {}}, headers={"If-Match": '"1"'}, expect=412)
    assert stale["code"] == "VERSION_MISMATCH"
    await join(world, token["token"], "n")


async def test_a_repeated_request_is_told_that_the_token_was_not_kept(world: World) -> None:
    headers = {"Idempotency-Key": "one"}
    first: Any = await world.call("POST", TOKENS, json={}, headers=headers, expect=201)
    again = await world.call("POST", TOKENS, json={}, headers=headers, expect=409)
    assert again["code"] == "IDEMPOTENCY_ANSWER_NOT_KEPT"
    for collection in ("idempotency", "joinTokens", "audit"):
        assert first["token"] not in str(await world.infra.store.find(collection, Query()))


async def test_a_known_node_is_let_in_again_as_it_is(world: World) -> None:
    node = await world.call("POST", "/api/v1/nodes", json={"name": "gpu-1", "labels": {"zone": "a"}}, expect=201)
    token = await made(world, nodeId=node["nodeId"])
    assert (token["nodeId"], token["role"], token["owner"]["orgId"]) == (node["nodeId"], [], node["owner"]["orgId"])  # type: ignore[index]
    joined = await join(world, token["token"], "whatever the machine is called")
    assert joined["nodeId"] == node["nodeId"]
    now = await world.call("GET", f"/api/v1/nodes/{node['nodeId']}", expect=200)
    assert (now["name"], now["labels"], now["resourceVersion"]) == ("gpu-1", {"zone": "a"}, 1)


async def test_a_deleted_node_is_not_let_in_again(world: World) -> None:
    node = await world.call("POST", "/api/v1/nodes", json={"name": "gpu-1"}, expect=201)
    token = await made(world, nodeId=node["nodeId"])
    await world.call("DELETE", f"/api/v1/nodes/{node['nodeId']}", expect=204)
    assert (await join(world, token["token"], "n", 401))["code"] == "JOIN_TOKEN_INVALID"
    refused = await world.call("POST", TOKENS, json={"nodeId": node["nodeId"]}, expect=422)
    assert refused["code"] == "NODE_NOT_FOUND"


async def test_making_revoking_joining_and_refusing_are_on_record(world: World) -> None:
    token, revoked = await made(world), await made(world)
    await world.call("DELETE", f"{TOKENS}/{revoked['joinTokenId']}", expect=204)
    joined = await join(world, token["token"], "gpu-1")
    await join(world, token["token"], "gpu-2", 401)
    page: Any = await world.call("GET", "/api/v1/audit?sort=time&limit=200", expect=200)
    told = {(each["action"], each["outcome"]): each for each in page["data"]}
    org_id = token["owner"]["orgId"]
    create = told["join-tokens.create", "ok"]
    assert (create["category"], create["target"]["kind"]) == ("token", "join-tokens")
    assert create["target"]["id"] in (token["joinTokenId"], revoked["joinTokenId"])
    assert told["join-tokens.delete", "ok"]["target"]["id"] == revoked["joinTokenId"]
    entry = told["nodes.join", "ok"]
    assert (entry["category"], entry["status"]) == ("token", 201)
    assert entry["target"] == {"kind": "nodes", "id": joined["nodeId"], "orgId": org_id}
    assert (entry["actor"]["kind"], entry["actor"]["id"]) == ("node", joined["nodeId"])
    denied = told["nodes.join", "denied"]
    assert (denied["category"], denied["code"], denied["actor"]["kind"]) == ("denial", "JOIN_TOKEN_USED", None)
    assert denied["actor"]["address"].startswith("2001:db8:")


async def test_who_may_not_change_nodes_of_all_makes_no_token_for_one(world: World) -> None:
    tenants = Tenants(world, "", "", "")
    tenants.own, tenants.foreign = await tenants.organization(), await tenants.organization()
    editor = await tenants.caller("organization.editor")
    headers = {"Authorization": f"Bearer {editor.token}"}
    shared = await tenants.node(None)
    for body, code in (({"shared": True}, "SHARED_DENIED"), ({"nodeId": shared}, "DENIED")):
        refused = await world.call("POST", TOKENS, json=body, headers=headers, expect=403)
        assert refused["code"] == code
    owned = await world.call("POST", TOKENS, json={}, headers=headers, expect=201)
    node = await world.call("GET", f"/api/v1/nodes/{(await join(world, owned['token'], 'n'))['nodeId']}")
    assert node["owner"] == {"orgId": tenants.own, "userId": editor.user_id}
