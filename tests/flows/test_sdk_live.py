"""Live events over a real socket: they arrive in order, the connection comes back, and what was missed is known."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from tests.http_support import Site, served, site, until

from aiwm.apps.noti import Noti, compose
from aiwm.infra.queue.memory import MemoryQueues
from aiwm.infra.queue.port import JobOptions
from aiwm.kit.tasks import Tasks
from aiwm.protocol.errors import Unauthenticated, Unavailable
from aiwm.protocol.notifications import QUEUE, Delivery
from aiwm.protocol.states import PrincipalKind, Role
from aiwm.sdk import Client, Live


@dataclass(frozen=True)
class World:
    site: Site
    noti: Noti
    queues: MemoryQueues
    url: str
    user_id: str
    token: str

    async def tell(self, number: int) -> None:
        data = {"name": "node.online", "data": {"number": number}, "recipients": {"userIds": [self.user_id]}}
        await self.queues.add(QUEUE, "service.event", {"event": "service.event", "data": data}, JobOptions())

    async def inbox(self) -> int:
        return await self.noti.streams.unread(self.user_id)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with site() as here, Tasks() as tasks:
        queues = MemoryQueues()
        noti = compose(here.settings, here.store, queues, here.tokens, here.clock)
        await noti.prepare()
        tasks.spawn("noti queue", noti.consume())
        user_id, token = await here.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")
        async with served(noti.application()) as url:
            yield World(here, noti, queues, url, user_id, token)
        noti.access.passwords.close()


@asynccontextmanager
async def expired(world: World) -> AsyncIterator[str]:
    token, _ = world.site.tokens.issue(PrincipalKind.USER, world.user_id, expires_in=-60)
    yield token


async def next_of(live: Live) -> tuple[str, Delivery]:
    async with asyncio.timeout(5):
        return await anext(live)


def number_of(delivery: Delivery) -> object:
    return (delivery.data or {})["number"]


async def test_events_arrive_under_their_name_and_in_order(world: World) -> None:
    async with Client("http://127.0.0.1:9", token=world.token, noti_url=world.url) as client, client.live() as live:
        for number in range(3):
            await world.tell(number)
        events = [await next_of(live) for _ in range(3)]
    assert [name for name, _ in events] == ["service.event"] * 3
    assert [delivery.name for _, delivery in events] == ["node.online"] * 3
    assert [number_of(delivery) for _, delivery in events] == [0, 1, 2]
    assert live.gaps == []
    assert live.connected is not None
    assert live.connected.user_id == world.user_id


async def test_a_lost_connection_comes_back_and_what_was_missed_is_known(world: World) -> None:
    async with Live(world.url, world.token) as live:
        await world.tell(0)
        await next_of(live)
        for sid in list(world.noti.hub._seats):
            await world.noti.hub.disconnect(sid)
        await until(lambda: not world.noti.hub._seats, "the connection is gone")
        await world.tell(1)

        async def missed() -> bool:
            return await world.inbox() == 2

        await until(missed, "the inbox has what was missed")
        await until(lambda: bool(world.noti.hub._seats), "the connection is back")
        await until(lambda: bool(live._welcome.is_set()), "the server has welcomed it")
        await world.tell(2)
        numbers = [number_of((await next_of(live))[1])]
        if numbers == [1]:
            numbers.append(number_of((await next_of(live))[1]))
        else:
            (gap,) = live.gaps
            assert (gap.after, gap.before) == (1, 3)
    assert numbers[-1] == 2


async def test_a_wrong_token_is_refused_by_its_code(world: World) -> None:
    with pytest.raises(Unauthenticated) as refused:
        async with Live(world.url, "no token at all"):
            pass
    assert refused.value.code == "TOKEN_INVALID"


async def test_an_expired_token_is_renewed_before_connecting(world: World) -> None:
    async def renewed() -> str:
        return world.token

    async with expired(world) as token, Live(world.url, token, refresh=renewed) as live:
        assert live.connected is not None


async def test_an_expired_token_that_nobody_renews_is_refused(world: World) -> None:
    async with expired(world) as token:
        with pytest.raises(Unauthenticated) as refused:
            async with Live(world.url, token):
                pass
    assert refused.value.code == "TOKEN_EXPIRED"


async def test_a_noti_that_is_away_is_named() -> None:
    with pytest.raises(Unavailable, match=r"cannot reach http://127\.0\.0\.1:9: "):
        async with Live("http://127.0.0.1:9", "token"):
            pass


async def test_nobody_listens_without_signing_in() -> None:
    async with Client("http://127.0.0.1:9") as client:
        with pytest.raises(Unauthenticated, match="sign in first"):
            client.live()
