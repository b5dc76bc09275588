"""API keys: shown once, scoped, expiring, revocable, and never more than their user."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter
from tests.http_support import SetClock, Site, bearer, client, site

from aiwm.access.principal import Principal
from aiwm.access.records import API_KEYS
from aiwm.access.routes import access_router
from aiwm.access.routes_api_keys import api_keys_router
from aiwm.http.app import create_app
from aiwm.http.idempotency import IdempotencyKeys
from aiwm.infra.store.port import Query
from aiwm.protocol.states import Role


class Ticking(SetClock):
    """Remembered identities are looked at again as soon as the time is moved."""

    def monotonic(self) -> float:
        return self.moment.timestamp()


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    async with site(Ticking()) as each:
        yield each


@pytest.fixture
async def http(here: Site) -> AsyncIterator[httpx2.AsyncClient]:
    routes = APIRouter()

    @routes.get("/infer")
    async def infer(who: Annotated[Principal, here.guard.needs("inference.use")]) -> str:
        return who.id

    @routes.post("/models")
    async def write(who: Annotated[Principal, here.guard.needs("models.write")]) -> str:
        return who.id

    routers = [
        routes,
        access_router(here.access.sessions, here.guard),
        api_keys_router(here.access.api_keys, here.guard),
    ]
    idempotency = IdempotencyKeys(here.store, here.clock)
    await idempotency.prepare()
    app = create_app(
        title="T", routers=routers, ready={}, guard=here.guard, settings=here.settings, idempotency=idempotency
    )
    async with client(app) as requests:
        requests.base_url = httpx2.URL("http://service/api/v1/")
        yield requests


async def _made(http: httpx2.AsyncClient, token: str, *scopes: str, **params: object) -> dict[str, Any]:
    body = {"name": f"key {'+'.join(scopes)}".replace("/", " "), "scopes": list(scopes), **params}
    answer = await http.post("api-keys", json=body, headers=bearer(token))
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def _status(http: httpx2.AsyncClient, method: str, path: str, token: str) -> int:
    return (await http.request(method, path, headers=bearer(token))).status_code


async def test_a_key_is_shown_once_and_kept_as_a_hash(here: Site, http: httpx2.AsyncClient) -> None:
    user_id, token = await here.user("ann", Role.ORGANIZATION_VIEWER, org_id="org-1")
    made = await _made(http, token, "inference", expiresIn=3600, metadata={"for": "ci"})
    assert made["key"].startswith("aiwm_")
    assert made["key"].endswith(made["hint"])
    assert len(made["hint"]) == 4
    assert made["expiresAt"] == "2026-01-01T01:00:00.000Z"
    assert made["owner"] == {"orgId": "org-1", "userId": user_id}
    listed = (await http.get("api-keys", headers=bearer(token))).json()
    shown = (await http.get(f"api-keys/{made['apiKeyId']}", headers=bearer(token))).json()
    assert listed["data"] == [shown]
    assert shown == {name: value for name, value in made.items() if name != "key"}
    assert made["key"] not in str(await here.store.find(API_KEYS, Query()))


async def test_a_key_lets_its_user_in_within_its_scopes(here: Site, http: httpx2.AsyncClient) -> None:
    user_id, token = await here.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")
    narrow, model, wide = [(await _made(http, token, each))["key"] for each in ("inference", "model:digits", "manage")]
    for key in (narrow, model, wide):
        answer = await http.get("infer", headers=bearer(key))
        assert (answer.status_code, answer.json()) == (200, user_id)
    for key, status in ((narrow, 403), (model, 403), (wide, 200)):
        assert await _status(http, "POST", "models", key) == status
        assert await _status(http, "GET", "auth/me", key) == status
        assert await _status(http, "GET", "api-keys", key) == status


async def test_a_key_is_never_more_than_its_user(here: Site, http: httpx2.AsyncClient) -> None:
    user_id, token = await here.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")
    key = (await _made(http, token, "manage"))["key"]
    assert await _status(http, "POST", "models", key) == 200
    viewer = {"roles": [Role.ORGANIZATION_VIEWER]}
    await here.users.users.update(user_id, lambda user: user.model_copy(update=viewer))
    assert await _status(http, "POST", "models", key) == 403
    await here.users.users.update(user_id, lambda user: user.model_copy(update={"is_active": False}))
    assert await _status(http, "GET", "infer", key) == 401


async def test_a_key_ends_by_itself_or_when_it_is_revoked(here: Site, http: httpx2.AsyncClient) -> None:
    assert isinstance(here.clock, SetClock)
    _, token = await here.user("ann", Role.ORGANIZATION_VIEWER, org_id="org-1")
    short, other = await _made(http, token, "inference", expiresIn=60), await _made(http, token, "manage")
    here.clock.forward(60)
    expired = await http.get("infer", headers=bearer(short["key"]))
    assert (expired.status_code, expired.json()["code"]) == (401, "TOKEN_EXPIRED")
    assert await _status(http, "GET", "infer", other["key"]) == 200
    path = f"api-keys/{other['apiKeyId']}"
    assert await _status(http, "DELETE", path, token) == 204
    gone = await http.get("infer", headers=bearer(other["key"]))
    assert (gone.status_code, gone.json()["code"]) == (401, "TOKEN_INVALID")
    assert await _status(http, "GET", path, token) == 404


async def test_revoking_a_key_ends_what_was_made_with_it(here: Site, http: httpx2.AsyncClient) -> None:
    _, token = await here.user("ann", Role.ORGANIZATION_VIEWER, org_id="org-1")
    parent = await _made(http, token, "manage", expiresIn=600)
    child = await _made(http, parent["key"], "manage", "inference")
    assert child["expiresAt"] == parent["expiresAt"]
    grandchild = await _made(http, child["key"], "inference")
    assert await _status(http, "DELETE", f"api-keys/{parent['apiKeyId']}", token) == 204
    for key in (child["key"], grandchild["key"]):
        assert await _status(http, "GET", "infer", key) == 401


async def test_use_is_noted_once_a_minute_and_disturbs_no_version(here: Site, http: httpx2.AsyncClient) -> None:
    assert isinstance(here.clock, SetClock)
    _, token = await here.user("ann", Role.ORGANIZATION_VIEWER, org_id="org-1")
    made = await _made(http, token, "inference")
    assert made["lastUsedAt"] is None
    versions = []
    for seconds in (0, 30, 31):
        here.clock.forward(seconds)
        await http.get("infer", headers=bearer(made["key"]))
        record = await here.store.get(API_KEYS, made["apiKeyId"])
        assert record is not None
        versions.append(record["version"])
    assert versions == [2, 2, 3]
    shown = (await http.get(f"api-keys/{made['apiKeyId']}", headers=bearer(here.token(made["createdBy"])))).json()
    assert (shown["lastUsedAt"], shown["resourceVersion"]) == ("2026-01-01T00:01:01.000Z", 1)


async def test_a_key_is_renamed_against_its_version(here: Site, http: httpx2.AsyncClient) -> None:
    _, token = await here.user("ann", Role.ORGANIZATION_VIEWER, org_id="org-1")
    made = await _made(http, token, "inference")
    path = f"api-keys/{made['apiKeyId']}"
    renamed = await http.patch(path, json={"name": "other"}, headers=bearer(token, **{"If-Match": '"1"'}))
    assert (renamed.status_code, renamed.json()["name"], renamed.json()["resourceVersion"]) == (200, "other", 2)
    late = await http.patch(path, json={"name": "third"}, headers=bearer(token, **{"If-Match": '"1"'}))
    assert late.status_code == 412
    assert (await http.patch(path, json={"scopes": ["manage"]}, headers=bearer(token))).status_code == 422


async def test_names_are_unique_and_free_again_after_a_revocation(here: Site, http: httpx2.AsyncClient) -> None:
    _, token = await here.user("ann", Role.ORGANIZATION_VIEWER, org_id="org-1")
    made = await _made(http, token, "inference", name="ci")
    again = await http.post("api-keys", json={"name": "ci", "scopes": ["manage"]}, headers=bearer(token))
    assert (again.status_code, again.json()["code"]) == (409, "NAME_TAKEN")
    await http.delete(f"api-keys/{made['apiKeyId']}", headers=bearer(token))
    await _made(http, token, "inference", name="ci")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "k", "scopes": []},
        {"name": "k", "scopes": ["everything"]},
        {"name": "k", "scopes": ["model:"]},
        {"name": "k", "scopes": ["manage"], "expiresIn": 1},
        {"name": "k", "scopes": ["manage"], "owner": {"orgId": "org-2"}},
        {"name": "k", "scopes": ["manage"], "key": "aiwm_mine"},
    ],
)
async def test_a_body_that_does_not_fit_is_refused(here: Site, http: httpx2.AsyncClient, body: object) -> None:
    _, token = await here.user("ann", Role.ORGANIZATION_VIEWER, org_id="org-1")
    assert (await http.post("api-keys", json=body, headers=bearer(token))).status_code == 422


async def test_keys_of_others_are_not_there_unless_one_owns_the_organization(
    here: Site, http: httpx2.AsyncClient
) -> None:
    _, token = await here.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")
    path = f"api-keys/{(await _made(http, token, 'manage'))['apiKeyId']}"
    for name, role, org_id, seen in [
        ("bob", Role.ORGANIZATION_EDITOR, "org-1", False),
        ("cat", Role.ORGANIZATION_OWNER, "org-2", False),
        ("dan", Role.UNIVERSE_EDITOR, "org-1", False),
        ("eve", Role.ORGANIZATION_OWNER, "org-1", True),
    ]:
        _, other = await here.user(name, role, org_id=org_id)
        assert (await http.get("api-keys", headers=bearer(other))).json()["pagination"]["total"] == int(seen)
        assert await _status(http, "GET", path, other) == (200 if seen else 404)
        assert await _status(http, "DELETE", path, other) == (204 if seen else 404)


@pytest.mark.parametrize("key", ["aiwm_", "aiwm_" + "0" * 64, "aiwm_" + "x" * 20_000, "aiwm_é", "aiwm__"])
async def test_what_is_no_key_opens_nothing(http: httpx2.AsyncClient, key: str) -> None:
    answer = await http.get("infer", headers={b"Authorization": f"Bearer {key}".encode()})
    assert (answer.status_code, answer.json()["code"]) == (401, "TOKEN_INVALID")


async def test_the_id_of_a_key_opens_nothing_without_its_secret(here: Site, http: httpx2.AsyncClient) -> None:
    _, token = await here.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")
    key = (await _made(http, token, "manage"))["key"]
    for wrong in (
        key[:-1],
        key[:-1] + ("0" if key[-1] != "0" else "1"),
        key + "0",
        key.rpartition("_")[0],
        key.upper(),
    ):
        assert await _status(http, "GET", "infer", wrong) == 401


async def test_an_answer_is_not_given_again_to_a_narrower_key_of_the_same_user(
    here: Site, http: httpx2.AsyncClient
) -> None:
    _, token = await here.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")
    wide, narrow = (await _made(http, token, "manage"))["key"], (await _made(http, token, "inference"))["key"]
    statuses = [
        (await http.post("models", headers=bearer(key, **{"Idempotency-Key": "once"}))).status_code
        for key in (wide, narrow)
    ]
    assert statuses == [200, 403]


async def test_a_key_has_no_session_to_sign_out_of(here: Site, http: httpx2.AsyncClient) -> None:
    _, token = await here.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")
    key = (await _made(http, token, "manage"))["key"]
    assert await _status(http, "POST", "auth/logout", key) == 401
    assert await _status(http, "GET", "auth/me", key) == 200
