"""Sessions: refresh tokens good for one use, also when several processes see them; sign-out; delays at the login."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.http_support import KEYS, PASSWORD, SetClock, Site, bearer, client, site, until

from aiwm.access import sessions
from aiwm.access.build import Access, compose_access
from aiwm.access.first_run import first_run
from aiwm.access.records import SESSIONS, USERS
from aiwm.access.routes import access_router
from aiwm.access.sessions import ACCESS_SECONDS
from aiwm.access.verified import KEPT_SECONDS
from aiwm.http.app import create_app
from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Store
from aiwm.infra.tokens import Tokens
from aiwm.kit.settings import Settings
from aiwm.protocol.errors import Unauthenticated
from aiwm.protocol.resources.access import TokenPair
from aiwm.protocol.states import PrincipalKind

HERE, THERE = "192.0.2.1", "192.0.2.2"


class Ticking(SetClock):
    """Both its times stand still until they are moved."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    async with site(Ticking()) as each:
        yield each


@pytest.fixture
async def http(here: Site) -> AsyncIterator[httpx2.AsyncClient]:
    router = access_router(here.access.sessions, here.guard)
    app = create_app(title="T", routers=[router], ready={}, guard=here.guard, settings=here.settings)
    async with client(app) as requests:
        requests.base_url = httpx2.URL("http://service/api/v1/auth/")
        yield requests


async def _login(
    http: httpx2.AsyncClient, password: str = PASSWORD, username: str = "admin", address: str = HERE
) -> httpx2.Response:
    body = {"username": username, "password": password}
    # The requests come from a proxy on loopback, which is believed about whom it speaks for.
    return await http.post("login", json=body, headers={"X-Forwarded-For": address})


async def _refresh(http: httpx2.AsyncClient, pair: dict[str, Any]) -> httpx2.Response:
    return await http.post("refresh", json={"refreshToken": pair["refreshToken"]})


async def test_access_tokens_live_a_quarter_of_an_hour(http: httpx2.AsyncClient) -> None:
    assert ((await _login(http)).json()["expiresIn"], ACCESS_SECONDS) == (900, 900)


async def test_a_refresh_token_is_good_for_one_use(http: httpx2.AsyncClient) -> None:
    first = (await _login(http)).json()
    second = (await _refresh(http, first)).json()
    assert second["refreshToken"] != first["refreshToken"]
    assert (await http.get("me", headers=bearer(second["accessToken"]))).status_code == 200
    assert (await _refresh(http, second)).status_code == 200


async def test_a_refresh_token_used_twice_ends_the_whole_session(http: httpx2.AsyncClient) -> None:
    first, other = (await _login(http)).json(), (await _login(http)).json()
    second = (await _refresh(http, first)).json()
    again = await _refresh(http, first)
    assert (again.status_code, again.json()["code"]) == (401, "TOKEN_REUSED")
    assert (await _refresh(http, second)).status_code == 401
    for pair in (first, second):
        assert (await http.get("me", headers=bearer(pair["accessToken"]))).status_code == 401
    assert (await http.get("me", headers=bearer(other["accessToken"]))).status_code == 200


async def test_a_sign_out_is_felt_at_once_though_identities_are_remembered(http: httpx2.AsyncClient) -> None:
    pair = (await _login(http)).json()
    assert (await http.get("me", headers=bearer(pair["accessToken"]))).status_code == 200
    assert (await http.post("logout", headers=bearer(pair["accessToken"]))).status_code == 204
    assert (await http.get("me", headers=bearer(pair["accessToken"]))).status_code == 401
    assert (await _refresh(http, pair)).json()["code"] == "TOKEN_INVALID"


async def test_sessions_say_nothing_that_opens_a_door(here: Site, http: httpx2.AsyncClient) -> None:
    pair = (await _login(http)).json()
    (kept,) = [record for record in [await here.store.get(SESSIONS, await _session_id(here, pair))] if record]
    assert set(kept) == {"id", "version", "userId", "expiresAt", "turn"}
    assert not any(pair[name] in str(kept) for name in ("accessToken", "refreshToken"))


async def _session_id(here: Site, pair: dict[str, Any]) -> str:
    return str(here.tokens.verify(pair["accessToken"], PrincipalKind.USER).values["sessionId"])


async def test_of_too_many_sessions_those_idle_for_longest_end(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 5)
    assert isinstance(here.clock, Ticking)
    pairs = []
    for _ in range(5):
        pairs.append(await here.access.sessions.login("admin", PASSWORD, HERE))
        here.clock.forward(1)
    renewed = await here.access.sessions.refresh(pairs[0].refresh_token)
    newest = await here.access.sessions.login("admin", PASSWORD, HERE)
    assert await here.store.count(SESSIONS) == 5
    with pytest.raises(Unauthenticated):
        await here.guard.principal(pairs[1].access_token)
    for pair in (renewed, newest, *pairs[2:]):
        await here.guard.principal(pair.access_token)


async def _processes(folder: Path, count: int) -> tuple[Store, list[Access]]:
    """As several processes would, each with its own memory on one store."""
    clock = SetClock()
    store = await open_store(f"sqlite://{folder}/aiwm.db")
    made = [compose_access(store, Tokens(KEYS, clock), clock) for _ in range(count)]
    await made[0].prepare()
    await first_run(made[0].users, made[0].passwords, Settings(admin_password=PASSWORD), clock)
    return store, made


async def test_of_processes_that_see_the_same_refresh_token_one_at_most_answers(tmp_path: Path) -> None:
    store, processes = await _processes(tmp_path, 4)
    try:
        for _ in range(10):
            pair = await processes[0].sessions.login("admin", PASSWORD, HERE)
            outcomes = await asyncio.gather(
                *(each.sessions.refresh(pair.refresh_token) for each in processes), return_exceptions=True
            )
            won = [each for each in outcomes if isinstance(each, TokenPair)]
            assert len(won) <= 1
            assert all(isinstance(each, TokenPair | Unauthenticated) for each in outcomes)
            assert await store.count(SESSIONS) == 0
    finally:
        for each in processes:
            each.passwords.close()
        await store.close()


async def test_what_another_process_changed_is_felt_within_two_seconds(tmp_path: Path) -> None:
    store, (one, other) = await _processes(tmp_path, 2)
    try:
        pair = await one.sessions.login("admin", PASSWORD, HERE)
        await other.guard.principal(pair.access_token)
        await one.sessions.logout(pair.access_token)
        with pytest.raises(Unauthenticated):
            await one.guard.principal(pair.access_token)

        async def refused() -> bool:
            try:
                await other.guard.principal(pair.access_token)
            except Unauthenticated:
                return True
            return False

        await until(refused, "the other process feels the sign-out", KEPT_SECONDS + 1)
    finally:
        for each in (one, other):
            each.passwords.close()
        await store.close()


async def test_most_requests_read_nothing_from_the_store(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = await here.user("ann")
    await here.guard.principal(token)

    async def read(*_: object) -> None:
        raise AssertionError("the store was read")

    monkeypatch.setattr(type(here.store), "get", read)
    for _ in range(100):
        await here.guard.principal(token)
    assert isinstance(here.clock, Ticking)
    here.clock.seconds += KEPT_SECONDS
    with pytest.raises(AssertionError, match="the store was read"):
        await here.guard.principal(token)


async def test_a_change_while_an_identity_is_looked_up_is_not_missed(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id, token = await here.user("ann")
    get, users = type(here.store).get, here.users.users

    async def slow(store: Store, collection: str, record_id: str) -> object:
        found = await get(store, collection, record_id)
        if collection == USERS:
            monkeypatch.setattr(type(here.store), "get", get)
            await users.update(user_id, lambda user: user.model_copy(update={"is_active": False}))
        return found

    monkeypatch.setattr(type(here.store), "get", slow)
    await here.guard.principal(token)
    with pytest.raises(Unauthenticated):
        await here.guard.principal(token)


async def test_after_failures_an_address_waits_and_is_told_how_long(http: httpx2.AsyncClient, here: Site) -> None:
    for _ in range(5):
        assert (await _login(http, "wrong")).status_code == 401
    refused = await _login(http)
    assert (refused.status_code, refused.json()["code"]) == (429, "LOGIN_DELAYED")
    assert refused.headers["Retry-After"] == "1"
    assert isinstance(here.clock, Ticking)
    here.clock.seconds += 1
    assert (await _login(http)).status_code == 200


async def test_nobody_can_lock_admin_out(http: httpx2.AsyncClient) -> None:
    for number in range(10):
        assert (await _login(http, "wrong", address=f"198.51.100.{number}")).status_code == 401
    assert (await _login(http, address="198.51.100.1")).status_code == 429
    assert (await _login(http, address=THERE)).status_code == 200


async def test_a_name_nobody_has_is_answered_as_one_that_somebody_has(http: httpx2.AsyncClient) -> None:
    answers = []
    for name, address in (("admin", HERE), ("nobody", THERE)):
        seen = [await _login(http, "wrong", name, address) for _ in range(7)]
        answers.append([(each.status_code, each.json()["detail"], each.headers.get("Retry-After")) for each in seen])
    assert answers[0] == answers[1]
    assert [status for status, _, _ in answers[0]] == [401] * 5 + [429] * 2


async def test_a_user_without_a_password_cannot_sign_in_with_any(here: Site, http: httpx2.AsyncClient) -> None:
    await here.user("ann")
    for password in ("", "decoy", "x"):
        assert (await _login(http, password or " ", "ann")).status_code == 401
