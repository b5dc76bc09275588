"""The audit log: nothing that matters goes past it, its chain shows changes, and writers at once keep one order."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import socketio
from fastapi import APIRouter
from tests.http_support import PASSWORD, Site, bearer, client, site

from aiwm.access.audit.log import COLLECTION, AuditLog
from aiwm.access.audit.routes import audit_router
from aiwm.access.guard import PUBLIC
from aiwm.access.routes import access_router
from aiwm.http.app import create_app
from aiwm.http.audit import Deed
from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Query, Store
from aiwm.kit.acting import Act
from aiwm.kit.clock import SystemClock
from aiwm.protocol.audit import AuditTarget, ChainCheck, hash_of
from aiwm.protocol.errors import Unavailable
from aiwm.protocol.states import Role
from aiwm.testing.world import World, open_world

DEED = Deed("mutation", "things.create", AuditTarget(kind="things"), "ok", 201)
HERE = Act("203.0.113.7")


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    async with site() as each:
        yield each


def _app(here: Site, log: AuditLog) -> Any:
    routers = [access_router(here.access.sessions, here.guard), audit_router(log, here.guard)]
    return create_app(title="T", routers=routers, ready={}, guard=here.guard, settings=here.settings, recorder=log)


async def _entries(log: AuditLog) -> list[dict[str, object]]:
    return [entry.to_wire() async for entry in log.entries()]


def _checked(entries: list[dict[str, object]]) -> ChainCheck:
    check = ChainCheck()
    for entry in entries:
        check.add(entry)
    return check


async def test_good_and_bad_sign_ins_are_on_record_with_who_and_whence(here: Site) -> None:
    log = AuditLog(here.store, here.clock)
    async with client(_app(here, log)) as http:
        for password in (PASSWORD, "wrong password"):
            body = {"username": "admin", "password": password}
            await http.post("/api/v1/auth/login", json=body, headers={"X-Correlation-Id": "corr-1"})
    good, bad = await _entries(log)
    assert (good["category"], good["action"], good["outcome"]) == ("signin", "auth.login", "ok")
    assert (bad["category"], bad["outcome"], bad["code"]) == ("signin", "denied", "CREDENTIALS_WRONG")
    assert good["actor"]["id"].startswith("user-")  # type: ignore[index]
    assert bad["actor"] == {"kind": None, "id": None, "username": "admin", "orgId": None, "address": "127.0.0.1"}
    assert good["correlationId"] == bad["correlationId"] == "corr-1"
    assert "wrong password" not in json.dumps([good, bad])


async def test_refusals_are_on_record_and_reads_are_not(here: Site) -> None:
    log = AuditLog(here.store, here.clock)
    user_id, token = await here.user("viewer", Role.ORGANIZATION_VIEWER, org_id="org-1")
    async with client(_app(here, log)) as http:
        assert (await http.get("/api/v1/auth/me", headers=bearer(token))).status_code == 200
        assert (await http.get("/api/v1/auth/me")).status_code == 401
        assert (await http.get("/api/v1/audit", headers=bearer(token))).status_code == 403
    nobody, somebody = await _entries(log)
    assert (nobody["category"], nobody["code"], nobody["status"]) == ("denial", "TOKEN_MISSING", 401)
    assert (somebody["action"], somebody["code"]) == ("audit.read", "DENIED")
    assert somebody["actor"]["id"] == user_id  # type: ignore[index]


async def test_a_flood_of_refusals_is_counted_and_not_kept_one_by_one(here: Site) -> None:
    log = AuditLog(here.store, here.clock)
    denied = Deed("denial", "nodes.read", AuditTarget(kind="nodes"), "denied", 401)
    for _ in range(300):
        await log.record(denied, HERE)
    await log.record(denied, Act("203.0.113.8"))
    await log.record(DEED, HERE)
    assert len(await _entries(log)) == 120 + 1 + 1


@pytest.mark.expects_errors
async def test_an_entry_that_cannot_be_kept_is_told_and_a_token_is_not_handed_out(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(here.store, here.clock)

    async def away(*_: object) -> None:
        raise Unavailable("cannot store: the disk is away")

    async with client(_app(here, log)) as http:
        monkeypatch.setattr(log, "_append", away)
        answer = await http.post("/api/v1/auth/login", json={"username": "admin", "password": PASSWORD})
        refused = await http.get("/api/v1/auth/me")
    assert (answer.status_code, answer.json()["code"]) == (503, "AUDIT_UNAVAILABLE")
    assert "accessToken" not in answer.text
    assert refused.status_code == 401


@pytest.mark.expects_errors
async def test_what_broke_in_the_middle_is_on_record_as_failed(here: Site) -> None:
    router = APIRouter(prefix="/things", dependencies=[PUBLIC])

    @router.post("/{thing_id}/break")
    async def broken(thing_id: str) -> None:
        raise ZeroDivisionError

    log = AuditLog(here.store, here.clock)
    app = create_app(title="T", routers=[router], ready={}, guard=here.guard, settings=here.settings, recorder=log)
    async with client(app) as http:
        assert (await http.post("/api/v1/things/t-1/break")).status_code == 500
    (entry,) = await _entries(log)
    assert (entry["action"], entry["outcome"], entry["status"]) == ("things.break", "failed", 500)
    assert entry["target"] == {"kind": "things", "id": "t-1", "orgId": None}


async def test_two_writers_make_one_chain_without_gaps(tmp_path: Path) -> None:
    clock = SystemClock()
    stores: list[Store] = [await open_store(f"sqlite://{tmp_path}/aiwm.db") for _ in range(2)]
    try:
        logs = [AuditLog(store, clock) for store in stores]
        await asyncio.gather(*(logs[index % 2].record(DEED, HERE) for index in range(60)))
        check = _checked(await _entries(logs[0]))
        assert (check.broken, check.count) == (None, 60)
    finally:
        for store in stores:
            await store.close()


async def test_the_use_of_a_stored_secret_is_on_record_without_the_secret(here: Site) -> None:
    log = AuditLog(here.store, here.clock)
    await log.secret_used("open", "secret-1", "org-1", HERE)
    (entry,) = await _entries(log)
    assert (entry["category"], entry["action"]) == ("secret", "secrets.open")
    assert entry["target"] == {"kind": "secrets", "id": "secret-1", "orgId": "org-1"}


async def test_the_first_changed_removed_or_inserted_entry_is_found(here: Site) -> None:
    log = AuditLog(here.store, here.clock)
    for _ in range(5):
        await log.record(DEED, HERE)
    entries = await _entries(log)
    assert _checked(entries).broken is None
    assert "entry 3 was changed" in str(_checked([*entries[:2], {**entries[2], "status": 200}, *entries[3:]]).broken)
    assert "entry 2 is missing" in str(_checked([entries[0], *entries[2:]]).broken)
    assert "entry 1 is missing" in str(_checked(entries[1:]).broken)
    assert "entry 3 is missing" in str(_checked([*entries[:2], entries[1], *entries[2:]]).broken)
    forged = {**entries[1], "status": 200}
    forged["hash"] = hash_of(forged)
    assert "entry 3 does not follow" in str(_checked([entries[0], forged, *entries[2:]]).broken)


async def test_owners_see_their_own_organization_and_the_universe_sees_all(here: Site) -> None:
    log = AuditLog(here.store, here.clock)
    _, owner = await here.user("owner", Role.ORGANIZATION_OWNER, org_id="org-1")
    _, universe = await here.user("root", Role.UNIVERSE_OWNER, org_id="org-2")
    for org_id in ("org-1", "org-2", None):
        await log.record(Deed("mutation", "nodes.create", AuditTarget(kind="nodes", org_id=org_id), "ok"), HERE)
    async with client(_app(here, log)) as http:
        mine = (await http.get("/api/v1/audit", headers=bearer(owner))).json()
        all_of_it = (await http.get("/api/v1/audit?sort=seq", headers=bearer(universe))).json()
        exported = await http.get("/api/v1/audit/export", headers=bearer(universe))
        wider = (await http.get("/api/v1/audit?filter[target]=x&q=nodes", headers=bearer(owner))).json()
    assert [entry["target"]["orgId"] for entry in mine["data"]] == ["org-1"]
    assert (mine["pagination"]["total"], wider["pagination"]["total"]) == (1, 0)
    assert [entry["seq"] for entry in all_of_it["data"]] == [1, 2, 3]
    lines = [json.loads(line) for line in exported.text.splitlines()]
    assert (len(lines), _checked(lines).broken) == (3, None)


async def test_lists_are_narrowed_by_actor_action_target_and_time(here: Site) -> None:
    log = AuditLog(here.store, here.clock)
    _, token = await here.user("root", Role.UNIVERSE_OWNER)
    for index in range(3):
        await log.record(Deed("mutation", "nodes.update", AuditTarget(kind="nodes", id=f"node-{index}"), "ok"), HERE)
    async with client(_app(here, log)) as http:

        async def total(query: str) -> int:
            answer = await http.get(f"/api/v1/audit?{query}", headers=bearer(token))
            assert answer.status_code == 200, answer.text
            return int(answer.json()["pagination"]["total"])

        assert await total("filter[target]=node-1") == 1
        assert await total("filter[action]=nodes.update&filter[address]=203.0.113.7") == 3
        assert await total("filter[actor]=nobody") == 0
        assert await total("from=2020-01-01T00:00:00Z") == 3
        assert await total("to=2020-01-01T00:00:00Z") == 0
        for query in ("from=yesterday", "filter[hash]=x", "from=0001-01-01T00:00:00%2B14:00", "other=1", "q=%00"):
            for path in ("/api/v1/audit", "/api/v1/audit/export"):
                assert (await http.get(f"{path}?{query}", headers=bearer(token))).status_code == 422, (path, query)


async def test_every_mutating_route_of_the_schema_is_on_record(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        schema = await world.call("GET", "/openapi.json", expect=200)
        routes = [
            (method.upper(), path)
            for path, methods in schema["paths"].items()  # type: ignore[attr-defined]
            for method in methods
            if method in ("post", "put", "patch", "delete") and path.startswith("/api/v1/")
        ]
        assert len(routes) > 15
        missed = [f"{method} {path}" for method, path in routes if not await _is_recorded(world, method, path)]
    assert missed == []


async def _is_recorded(world: World, method: str, path: str) -> bool:
    """A refusal is recorded by the same layer that records successes, before any route runs."""
    before = await world.infra.store.count(COLLECTION)
    url = f"{world.url}{path.replace('{', '').replace('}', '')}"
    # Of a public route it is what is shown in the body that is refused.
    body = {"joinToken": "nonsense", "name": "n"} if path == "/api/v1/nodes/join" else {}
    async with world.http.request(method, url, json=body, headers={"Authorization": "Bearer nonsense"}) as answer:
        if answer.status not in (401, 403):
            return path.startswith("/api/v1/auth/") or "blobs" in path
    found = await world.infra.store.find(COLLECTION, Query(sort=("-id",), limit=1))
    return await world.infra.store.count(COLLECTION) == before + 1 and found[0]["category"] in ("denial", "signin")


async def test_what_admin_does_is_on_record_with_its_target(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        node = await world.call("POST", "/api/v1/nodes", json={"name": "n"}, expect=201)
        node_id = str(node["nodeId"])
        await world.call("POST", f"/api/v1/nodes/{node_id}/token", json={}, expect=200)
        await world.call("POST", f"/api/v1/nodes/{node_id}/cordon", expect=200)
        await world.call("DELETE", f"/api/v1/nodes/{node_id}", expect=204)
        page = await world.call("GET", "/api/v1/audit?sort=seq", expect=200)
    entries: list[dict[str, Any]] = page["data"]  # type: ignore[assignment]
    told = [(each["category"], each["action"], each["target"]["id"]) for each in entries]
    assert told == [
        ("signin", "auth.login", None),
        ("mutation", "nodes.create", node_id),
        ("token", "nodes.token", node_id),
        ("mutation", "nodes.cordon", node_id),
        ("mutation", "nodes.delete", node_id),
    ]
    assert entries[1]["target"]["orgId"] == node["owner"]["orgId"]  # type: ignore[index]
    assert entries[-1]["target"]["orgId"] == node["owner"]["orgId"]  # type: ignore[index]
    assert all(each["actor"]["username"] == "admin" for each in entries)


async def test_connects_of_nodes_are_on_record_good_and_refused(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        node_id = await world.node("n")
        sio = socketio.AsyncClient(reconnection=False)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await sio.connect(world.url, auth={"token": "nonsense"}, namespaces=["/ws/node"])
        await sio.disconnect()
        page = await world.call("GET", "/api/v1/audit?filter[action]=ws.node.connect&sort=seq", expect=200)
    entries: list[dict[str, Any]] = page["data"]  # type: ignore[assignment]
    good, bad = entries
    assert (good["outcome"], good["actor"]["kind"], good["actor"]["id"]) == ("ok", "node", node_id)
    assert (bad["outcome"], bad["code"], bad["actor"]["id"]) == ("denied", "TOKEN_INVALID", None)
