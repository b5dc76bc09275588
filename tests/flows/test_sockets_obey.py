"""Open `/notifications` connections lose what their users lose, and gain what they gain."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import socketio
from tests.http_support import PASSWORD, SetClock, Site, served, site, until

from aiwm.access.records import SESSIONS, UserRecord
from aiwm.access.watch import look_again
from aiwm.apps.noti import Noti, compose
from aiwm.infra.queue.memory import MemoryQueues
from aiwm.protocol.errors import Unauthenticated, Unavailable
from aiwm.protocol.notifications import NAMESPACE
from aiwm.protocol.resources.api_keys import ApiKeyCreate
from aiwm.protocol.states import PrincipalKind, Role
from aiwm.sdk.live import Live

PLACE = {"notificationId": "noti-1", "seq": 1, "epoch": "epoch-1", "createdAt": "2026-01-01T00:00:00.000Z"}
DELIVERY: dict[str, object] = {"name": "n", "notificationMetadata": PLACE, "recipients": {}}


@dataclass
class Connection:
    """A client, what it heard, and whether the server has ended it."""

    client: socketio.AsyncClient
    events: list[tuple[str, Any]] = field(default_factory=list)
    ended: list[object] = field(default_factory=list)

    async def call(self, event: str, body: object) -> Any:
        return await self.client.call(event, body, namespace=NAMESPACE, timeout=5)

    def codes(self) -> list[str]:
        return [body["code"] for name, body in self.events if name == "session.ended"]


@dataclass(frozen=True)
class World:
    site: Site
    clock: SetClock
    noti: Noti
    url: str

    @asynccontextmanager
    async def connected(self, token: str) -> AsyncIterator[Connection]:
        connection = Connection(socketio.AsyncClient(reconnection=False))
        connection.client.on("*", lambda name, body: connection.events.append((name, body)), namespace=NAMESPACE)
        connection.client.on("disconnect", lambda *_: connection.ended.append(True), namespace=NAMESPACE)
        try:
            await connection.client.connect(
                self.url, auth={"token": token}, namespaces=[NAMESPACE], transports=["websocket"]
            )
            await until(lambda: bool(connection.events), "connected is received")
            yield connection
        finally:
            await connection.client.shutdown()

    async def change(self, user_id: str, **changes: object) -> None:
        def changed(user: UserRecord) -> UserRecord:
            return user.model_copy(update=changes)

        await self.site.users.users.update(user_id, changed)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock = SetClock()
    async with site(clock) as here:
        noti = compose(here.settings, here.store, MemoryQueues(), here.tokens, clock)
        await noti.prepare()
        async with served(noti.application()) as url:
            yield World(here, clock, noti, url)
        noti.access.passwords.close()


@pytest.fixture
async def ann(world: World) -> tuple[str, str]:
    return await world.site.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")


@pytest.mark.parametrize("changes", [{"is_active": False}, {"deleted_at": SetClock().now()}])
async def test_a_disabled_or_deleted_user_is_told_why_and_disconnected(
    world: World, ann: tuple[str, str], changes: dict[str, object]
) -> None:
    async with world.connected(ann[1]) as connection:
        await world.noti.hub.look()
        assert connection.client.connected
        await world.change(ann[0], **changes)
        await world.noti.hub.look()
        await until(lambda: bool(connection.ended), "the server ends the connection")
        assert connection.codes() == ["TOKEN_INVALID"]


async def test_a_sign_out_ends_the_connections_of_that_session_alone(world: World) -> None:
    first, second = [await world.site.access.sessions.login("admin", PASSWORD, "127.0.0.1") for _ in range(2)]
    async with world.connected(first.access_token) as ends, world.connected(second.access_token) as stays:
        await world.site.access.sessions.logout(first.access_token)
        await world.noti.hub.look()
        await until(lambda: bool(ends.ended), "the signed-out one ends")
        assert ends.codes() == ["TOKEN_INVALID"]
        await world.noti.hub.look()
        assert (await stays.call("notification.readAll", {}))["ok"]


async def test_an_expired_token_ends_its_connection(world: World, ann: tuple[str, str]) -> None:
    async with world.connected(ann[1]) as connection:
        world.clock.forward(3600)
        await world.noti.hub.look()
        await until(lambda: bool(connection.ended), "the server ends the connection")
        assert connection.codes() == ["TOKEN_EXPIRED"]


async def test_a_token_renewed_on_the_connection_keeps_it_open(world: World, ann: tuple[str, str]) -> None:
    async with world.connected(ann[1]) as connection:
        world.clock.forward(3500)
        assert await connection.call("token.renew", {"token": world.site.token(ann[0])}) == {"ok": True}
        world.clock.forward(200)
        await world.noti.hub.look()
        assert (await connection.call("notification.readAll", {}))["ok"]
        world.clock.forward(3600)
        await world.noti.hub.look()
        await until(lambda: bool(connection.ended), "the renewed token has expired too")


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (lambda site, bob: site.token(bob), "DENIED"),
        (lambda site, bob: site.tokens.issue(PrincipalKind.NODE, "node-1", expires_in=60)[0], "TOKEN_INVALID"),
        (lambda site, bob: "nonsense", "TOKEN_INVALID"),
        (lambda site, bob: "", "TOKEN_MISSING"),
    ],
)
async def test_only_another_good_token_of_the_same_user_renews(
    world: World, ann: tuple[str, str], made: Callable[[Site, str], str], code: str
) -> None:
    bob, _ = await world.site.user("bob", Role.ORGANIZATION_EDITOR, org_id="org-1")
    async with world.connected(ann[1]) as connection:
        answer = await connection.call("token.renew", {"token": made(world.site, bob)})
        assert (answer["ok"], answer["code"]) == (False, code)
        world.clock.forward(3600)
        await world.noti.hub.look()
        await until(lambda: bool(connection.ended), "the first token has expired")


async def test_a_user_who_moves_to_another_organization_loses_its_rooms_and_topics(
    world: World, ann: tuple[str, str]
) -> None:
    for org in ("org-1", "org-2"):
        await world.site.store.insert("deployments", {"id": f"deploy-{org}", "owner": {"orgId": org}})
    async with world.connected(ann[1]) as connection:
        hub = world.noti.hub
        assert (await connection.call("subscribe", {"topic": "deployment:deploy-org-1"}))["ok"]
        sid = connection.client.get_sid(NAMESPACE)
        await world.change(ann[0], org_id="org-2")
        await hub.look()
        rooms = set(hub.rooms(sid))
        assert "org:org-2" in rooms
        assert not rooms & {"org:org-1", "topic:deployment:deploy-org-1"}
        assert (await connection.call("subscribe", {"topic": "deployment:deploy-org-1"}))["code"] == "NOT_FOUND"
        assert (await connection.call("subscribe", {"topic": "deployment:deploy-org-2"}))["ok"]


async def test_a_session_deleted_by_anybody_counts(world: World) -> None:
    pair = await world.site.access.sessions.login("admin", PASSWORD, "127.0.0.1")
    async with world.connected(pair.access_token) as connection:
        claims = world.site.tokens.verify(pair.access_token, PrincipalKind.USER)
        await world.site.store.delete(SESSIONS, str(claims.values["sessionId"]))
        await world.noti.hub.look()
        await until(lambda: bool(connection.ended), "the server ends the connection")


async def test_an_api_key_that_is_revoked_or_expires_ends_its_connections(world: World, ann: tuple[str, str]) -> None:
    who = await world.site.guard.principal(ann[1])
    keys = world.site.access.api_keys
    revoked = await keys.create(who, ApiKeyCreate(name="one", scopes=["manage"]))
    expiring = await keys.create(who, ApiKeyCreate(name="two", scopes=["manage"], expires_in=600))
    async with world.connected(revoked.key) as one, world.connected(expiring.key) as two:
        await world.noti.hub.look()
        record = await keys.record(revoked.api_key_id)
        assert record is not None
        await keys.revoke(record, by=ann[0])
        await world.noti.hub.look()
        await until(lambda: bool(one.ended), "the revoked key's connection ends")
        assert (one.codes(), two.codes()) == (["TOKEN_INVALID"], [])
        world.clock.forward(600)
        await world.noti.hub.look()
        await until(lambda: bool(two.ended), "the expired key's connection ends")
        assert two.codes() == ["TOKEN_EXPIRED"]


async def test_while_the_store_is_away_connections_are_looked_after_again_later_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Hasty(SetClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds / 1000)

    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks in (2, 3, 5):
            raise Unavailable("cannot reach the store: refused")

    looking = asyncio.create_task(look_again(look, Hasty()))
    await until(lambda: looks >= 6, "it goes on")
    looking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await looking
    assert [record.getMessage() for record in caplog.records] == [
        "cannot look after open connections: cannot reach the store: refused"
    ] * 2


async def test_the_sdk_renews_its_token_on_the_connection_and_misses_nothing() -> None:
    async with site() as here:
        noti = compose(here.settings, here.store, MemoryQueues(), here.tokens, here.clock)
        await noti.prepare()
        ann, _ = await here.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")
        given: list[str] = []

        async def refresh() -> str:
            given.append(here.tokens.issue(PrincipalKind.USER, ann, expires_in=3600)[0])
            return given[-1]

        short = here.tokens.issue(PrincipalKind.USER, ann, expires_in=3)[0]
        async with served(noti.application()) as url, Live(url, short, refresh=refresh) as live:

            def expired() -> bool:
                with contextlib.suppress(Unauthenticated):
                    here.tokens.verify(short, PrincipalKind.USER)
                    return False
                return True

            await until(expired, "the first token has expired")
            await noti.hub.look()
            await noti.hub.tell(ann, "service.event", DELIVERY)
            name, _ = await asyncio.wait_for(anext(live), 5)
            assert (name, len(given), live.gaps) == ("service.event", 1, [])
        noti.access.passwords.close()
