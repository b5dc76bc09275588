"""`Idempotency-Key`: what was done once is not done again."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from tests.http_support import SetClock, Site, bearer, client, site, until

from aiwm.http.app import create_app
from aiwm.http.idempotency import ANSWERS_SECRET, COLLECTION, IdempotencyKeys
from aiwm.infra.store.port import Query
from aiwm.protocol.base import Params
from aiwm.protocol.errors import Conflict
from aiwm.protocol.states import Role


class Order(Params):
    name: str


@dataclass
class Shop:
    """A service that counts what it does; `gate` holds it back."""

    site: Site
    http: httpx2.AsyncClient
    token: str
    keys: IdempotencyKeys
    made: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, name: str, key: str | None = "key-1", path: str = "", token: str | None = None) -> Any:
        headers = bearer(token or self.token)
        if key is not None:
            headers["Idempotency-Key"] = key
        return await self.http.post(f"/api/v1/orders{path}", json={"name": name}, headers=headers)

    async def stored(self) -> str:
        return str(await self.site.store.find(COLLECTION, Query()))

    def forward(self, seconds: float) -> None:
        assert isinstance(self.site.clock, SetClock)
        self.site.clock.forward(seconds)


def _router(shop: Shop) -> APIRouter:
    router = APIRouter(prefix="/orders", dependencies=[shop.site.guard.needs("models.write")])

    @router.post("", status_code=201)
    async def order(body: Order) -> dict[str, int]:
        await shop.gate.wait()
        if body.name == "taken":
            raise Conflict("cannot use the name: it is taken", code="NAME_TAKEN")
        if body.name == "bug":
            raise RuntimeError("a bug")
        shop.made.append(body.name)
        return {"number": len(shop.made)}

    @router.post("/secret", dependencies=[ANSWERS_SECRET])
    async def secret(body: Order) -> dict[str, str]:
        shop.made.append(body.name)
        return {"token": "the-secret-itself"}

    return router


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with site(SetClock()) as here:
        _, token = await here.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")
        keys = IdempotencyKeys(here.store, here.clock)
        await keys.prepare()
        async with httpx2.AsyncClient() as unused:
            shop = Shop(here, unused, token, keys)
            shop.gate.set()
            app = create_app(
                title="T", routers=[_router(shop)], ready={}, guard=here.guard, settings=here.settings, idempotency=keys
            )
            async with client(app) as http:
                shop.http = http
                yield shop


async def test_the_same_key_and_body_give_the_same_answer_and_do_the_work_once(shop: Shop) -> None:
    first, again = await shop.post("a"), await shop.post("a")
    assert (first.status_code, first.json()) == (again.status_code, again.json()) == (201, {"number": 1})
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert shop.made == ["a"]


async def test_another_body_under_the_same_key_is_a_conflict(shop: Shop) -> None:
    await shop.post("a")
    answer = await shop.post("b")
    assert (answer.status_code, answer.json()["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert shop.made == ["a"]


async def test_keys_are_apart_for_each_user_and_path_and_none_means_every_time(shop: Shop) -> None:
    _, bob = await shop.site.user("bob", Role.ORGANIZATION_EDITOR, org_id="org-1")
    await shop.post("a")
    await shop.post("a", token=bob)
    await shop.post("a", path="/secret")
    await shop.post("a", key=None)
    await shop.post("a", key=None)
    assert len(shop.made) == 5


async def test_of_two_at_once_one_works_and_the_other_is_told_to_wait(shop: Shop) -> None:
    shop.gate.clear()
    first = asyncio.create_task(shop.post("a"))

    async def claimed() -> bool:
        return await shop.site.store.count(COLLECTION) == 1

    await until(claimed, "the first has claimed the key")
    second = await shop.post("a")
    assert (second.status_code, second.json()["code"]) == (409, "IDEMPOTENCY_IN_PROGRESS")
    shop.gate.set()
    assert (await first).status_code == 201
    assert shop.made == ["a"]


@pytest.mark.expects_errors
@pytest.mark.parametrize(("name", "status"), [("taken", 409), ("bug", 500)])
async def test_after_a_failure_the_key_is_free(shop: Shop, name: str, status: int) -> None:
    assert (await shop.post(name)).status_code == status
    assert (await shop.post("better")).status_code == 201


async def test_a_claim_whose_process_died_is_taken_over_after_a_minute(shop: Shop) -> None:
    died = await shop.keys.claim("order-1", "body")
    shop.forward(59)
    with pytest.raises(Conflict, match="being carried out"):
        await shop.keys.claim("order-1", "body")
    shop.forward(1)
    taken_over = await shop.keys.claim("order-1", "body")
    assert "status" not in taken_over
    await shop.keys.release(died)
    await shop.keys.answered(died, {"status": 200, "body": "of the dead", "headers": {}})
    await shop.keys.answered(taken_over, {"status": 201, "body": "of the living", "headers": {}})
    assert (await shop.keys.claim("order-1", "body"))["body"] == "of the living"


async def test_an_answer_with_a_secret_is_stored_nowhere_and_not_given_twice(shop: Shop) -> None:
    assert (await shop.post("a", path="/secret")).json() == {"token": "the-secret-itself"}
    assert "the-secret-itself" not in await shop.stored()
    again = await shop.post("a", path="/secret")
    assert (again.status_code, again.json()["code"]) == (409, "IDEMPOTENCY_ANSWER_NOT_KEPT")
    assert shop.made == ["a"]


async def test_after_a_day_an_answer_is_forgotten(shop: Shop) -> None:
    await shop.post("a")
    shop.forward(86_400)
    assert (await shop.post("b", token=shop.site.token(await _ann(shop)))).status_code == 201
    shop.forward(86_401)
    assert await shop.keys.forget_expired() == 1
    assert await shop.site.store.count(COLLECTION) == 0


async def test_who_is_not_signed_in_learns_nothing_from_a_key(shop: Shop) -> None:
    await shop.post("a")
    assert (await shop.post("a", token="nonsense")).json()["code"] == "TOKEN_INVALID"


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
async def test_a_key_that_is_none_is_refused_by_name(shop: Shop, key: str) -> None:
    answer = await shop.post("a", key=key)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


async def _ann(shop: Shop) -> str:
    found = await shop.site.users.by_username("ann")
    assert found is not None
    return found.id


async def test_what_is_kept_of_a_body_cannot_be_guessed_at_without_the_key(shop: Shop) -> None:
    await shop.post("a password", key="key-1")
    await shop.post("a password", key="key-2")
    kept = await shop.site.store.find(COLLECTION, Query())
    assert len({record["fingerprint"] for record in kept}) == 2
    assert "key-1" not in await shop.stored()
