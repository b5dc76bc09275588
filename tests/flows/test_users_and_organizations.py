"""Users and organizations over REST: who manages whom, and what is refused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.access_walk import PASSWORD, Caller, Tenants

from aiwm.kit.ids import new_id
from aiwm.protocol.errors import Conflict, Stale
from aiwm.protocol.states import Role
from aiwm.testing.world import ADMIN_PASSWORD, World, open_world

USERS, ORGANIZATIONS = "/api/v1/users", "/api/v1/organizations"


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def tenants(world: World) -> Tenants:
    here = Tenants(world, "", "", "")
    here.own, here.foreign = await here.organization(), await here.organization()
    return here


async def as_(world: World, caller: Caller, method: str, path: str, expect: int, body: object = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {caller.token}"}
    return await world.call(method, path, expect=expect, headers=headers, json=body)


async def admin(world: World) -> str:
    return str((await world.call("GET", "/api/v1/auth/me", expect=200))["userId"])


async def test_a_user_is_made_signs_in_is_disabled_and_deleted(world: World, tenants: Tenants) -> None:
    body = {"username": "Ann", "password": PASSWORD, "roles": ["organization.editor"], "orgId": tenants.own}
    made = await world.call("POST", USERS, json=body, expect=201)
    assert (made["username"], made["orgId"], made["roles"]) == ("Ann", tenants.own, ["organization.editor"])
    assert made["isActive"] is True
    assert made["owner"] == {"orgId": tenants.own, "userId": await admin(world)}
    assert not [name for name in made if "password" in name.lower()]
    ann = Caller(str(made["userId"]), "Ann", await tenants.sign_in("ann"))
    await as_(world, ann, "GET", "/api/v1/auth/me", 200)

    path = f"{USERS}/{ann.user_id}"
    changed = await world.call("PATCH", path, json={"isActive": False}, headers={"If-Match": "1"}, expect=200)
    assert (changed["isActive"], changed["resourceVersion"]) == (False, 2)
    await as_(world, ann, "GET", "/api/v1/auth/me", 401)
    stale = await world.call("PATCH", path, json={"isActive": True}, headers={"If-Match": "1"}, expect=412)
    assert stale["code"] == "VERSION_MISMATCH"

    await world.call("PATCH", path, json={"isActive": True}, expect=200)
    await as_(world, ann, "GET", "/api/v1/auth/me", 401)
    await world.call("DELETE", path, expect=204)
    assert (await world.call("GET", path, expect=404))["code"] == "USER_NOT_FOUND"
    await world.call("POST", USERS, json=body, expect=201)


async def test_a_username_is_unique_in_any_letter_case_and_whatever_the_organization(
    world: World, tenants: Tenants
) -> None:
    body = {"username": "Ann", "password": PASSWORD, "roles": ["organization.viewer"]}
    await world.call("POST", USERS, json={**body, "orgId": tenants.own}, expect=201)
    for name in ("Ann", "ANN", " ann "):
        taken = {**body, "username": name, "orgId": tenants.foreign}
        assert (await world.call("POST", USERS, json=taken, expect=409))["code"] == "NAME_TAKEN"


@pytest.mark.parametrize("password", ["", "1234567", "x" * 1025])
async def test_a_password_has_eight_to_1024_characters(world: World, tenants: Tenants, password: str) -> None:
    body = {"username": "ann", "password": password, "roles": ["organization.viewer"]}
    refused: Any = await world.call("POST", USERS, json=body, expect=422)
    assert [each["field"] for each in refused["errors"]] == ["password"]
    path = f"{USERS}/{await tenants.user(tenants.own)}/password"
    await world.call("POST", path, json={"password": password}, expect=422)


@pytest.mark.parametrize("password", ["12345678", "x" * 1024, "pässwörd\u0000 mit allem"])
async def test_any_characters_make_a_password(world: World, password: str) -> None:
    body = {"username": "ann", "password": password, "roles": ["organization.viewer"]}
    await world.call("POST", USERS, json=body, expect=201)
    await world.call("POST", "/api/v1/auth/login", json={"username": "ann", "password": password}, expect=200)


async def test_a_new_password_signs_the_user_out_everywhere(world: World, tenants: Tenants) -> None:
    ann = await tenants.caller("organization.viewer")
    await as_(world, ann, "POST", f"{USERS}/{ann.user_id}/password", 204, {"password": "another password"})
    await as_(world, ann, "GET", "/api/v1/auth/me", 401)
    old = {"username": ann.username, "password": PASSWORD}
    assert (await world.call("POST", "/api/v1/auth/login", json=old, expect=401))["code"] == "CREDENTIALS_WRONG"
    new = {"username": ann.username, "password": "another password"}
    await world.call("POST", "/api/v1/auth/login", json=new, expect=200)


@pytest.mark.parametrize(
    ("roles", "code"),
    [
        (["universe.viewer", "organization.owner"], "ROLES_MIXED"),
        ([], "VALIDATION_FAILED"),
        (["galaxy.owner"], "VALIDATION_FAILED"),
    ],
)
async def test_roles_that_do_not_fit_are_refused_by_field(world: World, roles: list[str], code: str) -> None:
    body = {"username": "ann", "password": PASSWORD, "roles": roles}
    refused: Any = await world.call("POST", USERS, json=body, expect=422)
    assert refused["code"] == code
    assert refused["errors"][0]["field"].startswith("roles")


async def test_an_organization_that_does_not_exist_takes_no_user(world: World) -> None:
    body = {"username": "ann", "password": PASSWORD, "roles": ["organization.viewer"], "orgId": "org-0"}
    refused: Any = await world.call("POST", USERS, json=body, expect=422)
    assert (refused["code"], refused["errors"][0]["field"]) == ("ORGANIZATION_NOT_FOUND", "orgId")


async def test_an_owner_of_an_organization_gives_roles_of_it_and_no_others(world: World, tenants: Tenants) -> None:
    owner = await tenants.caller("organization.owner")
    body: dict[str, object] = {"username": "ann", "password": PASSWORD, "roles": ["organization.owner"]}
    made = await as_(world, owner, "POST", USERS, 201, body)
    assert made["orgId"] == tenants.own
    for role in ("universe.owner", "universe.editor", "universe.viewer"):
        refused = await as_(world, owner, "POST", USERS, 403, {**body, "username": "bob", "roles": [role]})
        assert refused["code"] == "ROLE_NOT_GRANTABLE"
        refused = await as_(world, owner, "PATCH", f"{USERS}/{made['userId']}", 403, {"roles": [role]})
        assert refused["code"] == "ROLE_NOT_GRANTABLE"
        refused = await as_(world, owner, "PATCH", f"{USERS}/{owner.user_id}", 403, {"roles": [role]})
        assert refused["code"] == "ROLE_NOT_GRANTABLE"


async def test_an_owner_of_an_organization_cannot_reach_its_universe_users(world: World, tenants: Tenants) -> None:
    """Else it would set an admin's password and be admin."""
    owner = await tenants.caller("organization.owner")
    admin_of_it = await tenants.caller("universe.owner")
    path = f"{USERS}/{admin_of_it.user_id}"
    await as_(world, owner, "GET", path, 200)
    await as_(world, owner, "POST", f"{path}/password", 403, {"password": "mine from now on"})
    await as_(world, owner, "PATCH", path, 403, {"roles": ["organization.viewer"]})
    await as_(world, owner, "DELETE", path, 403)


async def test_the_last_universe_owner_stays(world: World, tenants: Tenants) -> None:
    path = f"{USERS}/{await admin(world)}"
    await tenants.user(tenants.own, Role.UNIVERSE_EDITOR)
    idle = await tenants.user(tenants.own, Role.UNIVERSE_OWNER)
    await world.call("PATCH", f"{USERS}/{idle}", json={"isActive": False}, expect=200)
    for method, body in (("PATCH", {"isActive": False}), ("PATCH", {"roles": ["universe.editor"]}), ("DELETE", None)):
        refused = await world.call(method, path, json=body, expect=409)
        assert refused["code"] == "LAST_OWNER"
    await world.call("PATCH", path, json={"metadata": {"still": "here"}}, expect=200)
    await world.call("PATCH", f"{USERS}/{idle}", json={"isActive": True}, expect=200)
    await world.call("PATCH", path, json={"roles": ["universe.editor"]}, expect=200)


async def test_of_owners_that_all_leave_at_once_at_least_one_stays(world: World, tenants: Tenants) -> None:
    others = [await tenants.user(tenants.own, Role.UNIVERSE_OWNER) for _ in range(4)]
    accounts = world.controller.accounts
    me = await world.controller.guard.principal(await tenants.sign_in("admin", ADMIN_PASSWORD))

    async def leave(user_id: str) -> None:
        with contextlib.suppress(Conflict, Stale):
            await accounts.change(me, await accounts.managed_by(me, user_id), {"is_active": False})

    await asyncio.gather(*map(leave, (*others, me.id)))
    users = world.controller.users.users
    assert [each for each in [await users.get(one) for one in (*others, me.id)] if each is not None and each.is_active]


async def test_a_deleted_admin_is_not_made_again(world: World, tenants: Tenants) -> None:
    other = await tenants.caller("universe.owner")
    await as_(world, other, "DELETE", f"{USERS}/{await admin(world)}", 204)
    await world.controller.prepare()
    login = {"username": "admin", "password": ADMIN_PASSWORD}
    await world.call("POST", "/api/v1/auth/login", json=login, expect=401)


async def test_an_organization_is_made_renamed_and_deleted_once_nothing_is_left_of_it(
    world: World, tenants: Tenants
) -> None:
    made = await world.call("POST", ORGANIZATIONS, json={"name": "Acme"}, expect=201)
    org_id = str(made["orgId"])
    assert (made["name"], made["owner"]) == ("Acme", {"orgId": org_id, "userId": await admin(world)})
    for name in ("Acme", "acme"):
        taken = await world.call("POST", ORGANIZATIONS, json={"name": name}, expect=409)
        assert taken["code"] == "NAME_TAKEN"
    taken = await world.call("PATCH", f"{ORGANIZATIONS}/{tenants.own}", json={"name": "ACME"}, expect=409)
    assert taken["code"] == "NAME_TAKEN"
    renamed = await world.call("PATCH", f"{ORGANIZATIONS}/{org_id}", json={"name": "Emca"}, expect=200)
    assert (renamed["name"], renamed["resourceVersion"]) == ("Emca", 2)
    await world.call("DELETE", f"{ORGANIZATIONS}/{org_id}", expect=204)
    gone = await world.call("GET", f"{ORGANIZATIONS}/{org_id}", expect=404)
    assert gone["code"] == "ORGANIZATION_NOT_FOUND"
    await world.call("POST", ORGANIZATIONS, json={"name": "emca"}, expect=201)


@pytest.mark.parametrize("what", ["users", "nodes", "models", "deployments"])
async def test_an_organization_is_not_deleted_while_anything_belongs_to_it(
    world: World, tenants: Tenants, what: str
) -> None:
    make = {"users": tenants.user, "nodes": tenants.node, "models": tenants.model, "deployments": tenants.deployment}
    await make[what](tenants.foreign)
    refused = await world.call("DELETE", f"{ORGANIZATIONS}/{tenants.foreign}", expect=409)
    assert refused["code"] == "ORGANIZATION_IN_USE"
    if what != "deployments":
        assert f" {what} " in str(refused["detail"])


async def test_what_was_deleted_does_not_hold_its_organization(world: World, tenants: Tenants) -> None:
    node, user = await tenants.node(tenants.foreign), await tenants.user(tenants.foreign)
    await world.call("DELETE", f"/api/v1/nodes/{node}", expect=204)
    await world.call("DELETE", f"{USERS}/{user}", expect=204)
    await world.call("DELETE", f"{ORGANIZATIONS}/{tenants.foreign}", expect=204)


async def test_an_owner_names_its_organization_and_makes_none(world: World, tenants: Tenants) -> None:
    owner = await tenants.caller("organization.owner")
    await as_(world, owner, "PATCH", f"{ORGANIZATIONS}/{tenants.own}", 200, {"name": new_id("mine")})
    await as_(world, owner, "POST", ORGANIZATIONS, 403, {"name": "another"})
    await as_(world, owner, "DELETE", f"{ORGANIZATIONS}/{tenants.own}", 403)
