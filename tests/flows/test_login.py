"""Signing in: the first run, sessions, and what an attacker learns from it."""

import asyncio
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.http_support import KEYS, PASSWORD, SetClock, Site, bearer, client, site

from aiwm.access.build import compose_access
from aiwm.access.first_run import PASSWORD_FILE, first_run
from aiwm.access.passwords import Passwords
from aiwm.access.records import ORGANIZATIONS, USERS
from aiwm.access.routes import access_router
from aiwm.access.sessions import ACCESS_SECONDS, REFRESH_SECONDS
from aiwm.http.app import create_app
from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Query
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import SystemClock
from aiwm.kit.settings import Settings, SettingsError
from aiwm.protocol.errors import TooMany
from aiwm.protocol.states import PrincipalKind


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    async with site(SetClock()) as each:
        yield each


@pytest.fixture
async def http(here: Site) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(
        title="T",
        routers=[access_router(here.access.sessions, here.guard)],
        ready={},
        guard=here.guard,
        settings=here.settings,
    )
    async with client(app) as requests:
        requests.base_url = httpx2.URL("http://service/api/v1/auth/")
        yield requests


async def _login(http: httpx2.AsyncClient, username: str = "admin", password: str = PASSWORD) -> dict[str, Any]:
    answer = await http.post("login", json={"username": username, "password": password})
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def test_the_first_user_signs_in_and_is_universe_owner_of_the_default_organization(
    http: httpx2.AsyncClient, here: Site
) -> None:
    tokens = await _login(http, "Admin")
    assert (tokens["tokenType"], tokens["expiresIn"]) == ("Bearer", ACCESS_SECONDS)
    me = (await http.get("me", headers=bearer(tokens["accessToken"]))).json()
    (organization,) = await here.users.organizations.find(Query())
    assert me == {
        "userId": me["userId"],
        "username": "admin",
        "orgId": organization.id,
        "roles": ["universe.owner"],
        "kind": "user",
    }
    assert organization.name == "default"


@pytest.mark.parametrize(
    ("username", "password"), [("admin", "wrong"), ("nobody", PASSWORD), ("admin", f"{PASSWORD} ")]
)
async def test_wrong_credentials_are_refused_without_saying_which(
    http: httpx2.AsyncClient, username: str, password: str
) -> None:
    answer = await http.post("login", json={"username": username, "password": password})
    assert (answer.status_code, answer.json()["code"]) == (401, "CREDENTIALS_WRONG")
    assert answer.json()["detail"] == "cannot sign in: username or password is wrong"


async def test_an_unknown_user_costs_the_same_work_as_a_known_one(http: httpx2.AsyncClient) -> None:
    async def fastest(username: str) -> float:
        took = []
        for _ in range(2):
            began = time.perf_counter()
            await http.post("login", json={"username": username, "password": "wrong"})
            took.append(time.perf_counter() - began)
        return min(took)

    known, unknown = await fastest("admin"), await fastest("nobody")
    assert unknown > known / 3


async def test_after_a_sign_out_no_token_of_the_session_is_good(http: httpx2.AsyncClient) -> None:
    tokens, other = await _login(http), await _login(http)
    assert (await http.post("logout", headers=bearer(tokens["accessToken"]))).status_code == 204
    gone = await http.get("me", headers=bearer(tokens["accessToken"]))
    assert (gone.status_code, gone.json()["code"]) == (401, "TOKEN_INVALID")
    assert (await http.post("refresh", json={"refreshToken": tokens["refreshToken"]})).status_code == 401
    assert (await http.get("me", headers=bearer(other["accessToken"]))).status_code == 200


async def test_a_refresh_token_gives_new_tokens_after_the_access_token_has_expired(
    http: httpx2.AsyncClient, here: Site
) -> None:
    assert isinstance(here.clock, SetClock)
    tokens = await _login(http)
    here.clock.forward(ACCESS_SECONDS)
    expired = await http.get("me", headers=bearer(tokens["accessToken"]))
    assert expired.json()["code"] == "TOKEN_EXPIRED"
    renewed = (await http.post("refresh", json={"refreshToken": tokens["refreshToken"]})).json()
    assert (await http.get("me", headers=bearer(renewed["accessToken"]))).status_code == 200
    here.clock.forward(REFRESH_SECONDS)
    late = await http.post("refresh", json={"refreshToken": renewed["refreshToken"]})
    assert late.json()["code"] == "TOKEN_EXPIRED"


async def test_access_and_refresh_tokens_do_not_stand_in_for_each_other(http: httpx2.AsyncClient) -> None:
    tokens = await _login(http)
    assert (await http.get("me", headers=bearer(tokens["refreshToken"]))).status_code == 401
    assert (await http.post("refresh", json={"refreshToken": tokens["accessToken"]})).status_code == 401


async def test_a_user_who_was_made_inactive_or_is_gone_is_shut_out_at_once(
    http: httpx2.AsyncClient, here: Site
) -> None:
    tokens = await _login(http)
    admin = await here.users.by_username("admin")
    assert admin is not None
    await here.users.users.update(admin.id, lambda user: user.model_copy(update={"is_active": False}))
    assert (await http.get("me", headers=bearer(tokens["accessToken"]))).status_code == 401
    assert (await http.post("refresh", json={"refreshToken": tokens["refreshToken"]})).status_code == 401
    assert (await http.post("login", json={"username": "admin", "password": PASSWORD})).status_code == 401
    assert (await http.get("me", headers=bearer(here.token("user-gone")))).status_code == 401


async def test_a_nodes_token_does_not_open_the_rest_api(http: httpx2.AsyncClient, here: Site) -> None:
    token, _ = here.tokens.issue(PrincipalKind.NODE, "node-1", expires_in=60)
    assert (await http.get("me", headers=bearer(token))).json()["code"] == "TOKEN_INVALID"


async def test_signing_in_again_forgets_sessions_that_expired(http: httpx2.AsyncClient, here: Site) -> None:
    assert isinstance(here.clock, SetClock)
    await _login(http)
    here.clock.forward(REFRESH_SECONDS + 1)
    await _login(http)
    assert await here.store.count("sessions") == 1


async def test_too_many_who_sign_in_at_once_are_told_to_come_back() -> None:
    passwords = Passwords()
    try:
        outcomes = await asyncio.gather(*(passwords.matches("x", "no hash") for _ in range(80)), return_exceptions=True)
    finally:
        passwords.close()
    assert sum(isinstance(each, TooMany) for each in outcomes) == 16
    assert outcomes.count(False) == 64


async def _first_run(folder: Path, times: int = 1, password: str = "") -> tuple[list[Path | None], int, int]:
    clock = SystemClock()
    store = await open_store(f"sqlite://{folder}/aiwm.db")
    access = compose_access(store, Tokens(KEYS, clock), clock)
    users, passwords = access.users, access.passwords
    try:
        await access.prepare()
        wanted = Settings(data_dir=folder, admin_password=password)
        made = await asyncio.gather(*(first_run(users, passwords, wanted, clock) for _ in range(times)))
        if (folder / PASSWORD_FILE).exists():
            await access.sessions.login("admin", (folder / PASSWORD_FILE).read_text().strip(), "127.0.0.1")
        return made, await store.count(USERS), await store.count(ORGANIZATIONS)
    finally:
        passwords.close()
        await store.close()


async def test_the_first_password_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    made, users, organizations = await _first_run(tmp_path)
    path = tmp_path / PASSWORD_FILE
    assert (made, users, organizations) == ([path], 1, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    password = path.read_text()
    assert await _first_run(tmp_path) == ([None], 1, 1)
    assert path.read_text() == password


async def test_processes_that_start_at_once_make_one_user_and_one_organization(tmp_path: Path) -> None:
    made, users, organizations = await _first_run(tmp_path, times=5)
    assert (users, organizations) == (1, 1)
    assert made.count(tmp_path / PASSWORD_FILE) == 1


async def test_a_password_from_the_settings_is_kept_nowhere(tmp_path: Path) -> None:
    assert await _first_run(tmp_path, password=PASSWORD) == ([None], 1, 1)
    assert not (tmp_path / PASSWORD_FILE).exists()


async def test_a_password_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least 8 characters"):
        await _first_run(tmp_path, password="short")
