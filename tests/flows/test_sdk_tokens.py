"""Tokens expire; the SDK renews them once and goes on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from tests.http_support import PASSWORD, SetClock, served, site

from aiwm.access.routes import access_router
from aiwm.http.app import create_app
from aiwm.protocol.errors import Unauthenticated
from aiwm.protocol.resources.access import TokenPair
from aiwm.sdk import Client


@dataclass(frozen=True)
class Door:
    url: str
    clock: SetClock


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    clock = SetClock(datetime.now(UTC))
    async with site(clock) as here:
        router = access_router(here.access.sessions, here.guard)
        app = create_app(title="door", routers=(router,), ready={}, guard=here.guard, settings=here.settings)
        async with served(app) as url:
            yield Door(url, clock)


async def test_an_expired_token_is_renewed_once_however_many_requests_find_it_so(door: Door) -> None:
    told: list[TokenPair] = []
    async with Client(door.url, on_tokens=told.append) as client:
        first = await client.login("admin", PASSWORD)
        door.clock.forward(first.expires_in + 60)
        whos = await asyncio.gather(*(client.me() for _ in range(5)))
    assert {who.username for who in whos} == {"admin"}
    assert len(told) == 2
    assert told[0] == first
    assert told[1].access_token != first.access_token


async def test_kept_tokens_of_an_earlier_run_are_renewed_too(door: Door) -> None:
    async with Client(door.url) as client:
        first = await client.login("admin", PASSWORD)
    door.clock.forward(first.expires_in + 60)
    async with Client(door.url, token=first.access_token, refresh_token=first.refresh_token) as later:
        assert (await later.me()).username == "admin"


async def test_without_a_refresh_token_an_expired_one_is_an_error(door: Door) -> None:
    async with Client(door.url) as client:
        first = await client.login("admin", PASSWORD)
    door.clock.forward(first.expires_in + 60)
    async with Client(door.url, token=first.access_token) as later:
        with pytest.raises(Unauthenticated) as refused:
            await later.me()
    assert refused.value.code == "TOKEN_EXPIRED"


async def test_after_a_long_absence_one_has_to_sign_in_again(door: Door) -> None:
    async with Client(door.url) as client:
        await client.login("admin", PASSWORD)
        door.clock.forward(400 * 86_400)
        with pytest.raises(Unauthenticated) as refused:
            await client.me()
    assert refused.value.code == "TOKEN_EXPIRED"
