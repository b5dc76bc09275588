"""From the queue to users: once, in order, exactly as it was sent."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import socketio
from socketio.exceptions import ConnectionError as Refused
from tests.http_support import Site, bearer, served, site, until

from aiwm.apps.noti import Noti, compose
from aiwm.infra.queue.memory import MemoryQueues
from aiwm.infra.queue.port import Job, JobOptions
from aiwm.infra.store.port import Record
from aiwm.kit.tasks import Tasks
from aiwm.notifications.records import INBOX
from aiwm.protocol.errors import Unavailable
from aiwm.protocol.notifications import NAMESPACE, QUEUE
from aiwm.protocol.states import PrincipalKind, Role

DATA = {"deploymentId": "deploy-1", "modelName": "whisper", "status": "deploying", "nested": {"none": None, "a.b": [1]}}


@dataclass
class Listener:
    """A user's client and everything it received, in order."""

    client: socketio.AsyncClient
    events: list[tuple[str, Any]] = field(default_factory=list)

    def named(self, event: str) -> list[Any]:
        return [body for name, body in self.events if name == event]

    async def call(self, event: str, body: object = None) -> Any:
        return await self.client.call(event, body, namespace=NAMESPACE, timeout=5)


@dataclass(frozen=True)
class World:
    site: Site
    noti: Noti
    queues: MemoryQueues
    url: str

    @asynccontextmanager
    async def listening(self, token: str | None, headers: dict[str, str] | None = None) -> AsyncIterator[Listener]:
        listener = Listener(socketio.AsyncClient(reconnection=False))

        async def received(event: str, body: object = None) -> None:
            listener.events.append((event, body))

        listener.client.on("*", received, namespace=NAMESPACE)
        try:
            await listener.client.connect(
                self.url,
                headers=headers or {},
                auth=None if token is None else {"token": token},
                namespaces=[NAMESPACE],
                transports=["websocket"],
            )
            await until(lambda: bool(listener.events), "connected is received")
            yield listener
        finally:
            await listener.client.shutdown()

    async def send(self, event: str, data: Mapping[str, object], job_id: str | None = None) -> None:
        await self.queues.add(QUEUE, event, {"event": event, "data": data}, JobOptions(job_id=job_id))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with site() as here, Tasks() as tasks:
        queues = MemoryQueues()
        noti = compose(here.settings, here.store, queues, here.tokens, here.clock)
        await noti.prepare()
        tasks.spawn("noti queue", noti.consume())
        async with served(noti.application()) as url:
            yield World(here, noti, queues, url)
        noti.access.passwords.close()


@pytest.fixture
async def ann(world: World) -> tuple[str, str]:
    return await world.site.user("ann", Role.ORGANIZATION_EDITOR, org_id="org-1")


async def test_a_connected_client_first_hears_where_its_stream_stands(world: World, ann: tuple[str, str]) -> None:
    async with world.listening(ann[1]) as listener:
        name, body = listener.events[0]
        assert name == "connected"
        assert body == {
            "userId": ann[0],
            "rooms": [f"user:{ann[0]}", "org:org-1"],
            "epoch": body["epoch"],
            "lastSeq": 0,
        }


async def test_the_data_of_a_service_event_arrives_exactly_as_it_was_sent(world: World, ann: tuple[str, str]) -> None:
    async with world.listening(ann[1]) as listener:
        data = {
            "name": "model.deployment.started",
            "data": DATA,
            "recipients": {"userIds": [ann[0]]},
            "metadata": {"correlationId": "corr-of-the-post"},
        }
        await world.send("service.event", data)
        await until(lambda: bool(listener.named("service.event")), "the event arrives")
        (event,) = listener.named("service.event")
        assert event["name"] == "model.deployment.started"
        assert event["data"] == DATA
        assert list(event["data"])[:3] == ["deploymentId", "modelName", "status"]
        assert event["recipients"] == {"userIds": [ann[0]]}
        about = event["notificationMetadata"]
        assert about["seq"] == 1
        assert about["correlationId"] == "corr-of-the-post"
        assert about["createdAt"].endswith("Z")


async def test_a_user_addressed_in_three_ways_is_told_once_and_sees_only_its_own_ways(
    world: World, ann: tuple[str, str]
) -> None:
    bob, _ = await world.site.user("bob", Role.ORGANIZATION_VIEWER, org_id="org-2")
    async with world.listening(ann[1]) as listener:
        recipients = {"userIds": [ann[0], bob], "orgIds": ["org-1", "org-2"], "broadcast": True}
        await world.send("system.notification", {"title": "t", "message": "m", "recipients": recipients})
        await world.send("system.notification", {"title": "end", "message": "m", "recipients": {"broadcast": True}})
        await until(lambda: len(listener.named("system.notification")) >= 2, "both arrive")
        first, second = listener.named("system.notification")
        assert first["recipients"] == {"userIds": [ann[0]], "orgIds": ["org-1"], "broadcast": True}
        assert second["title"] == "end"
        assert [each["notificationMetadata"]["seq"] for each in (first, second)] == [1, 2]


async def test_a_job_delivered_twice_is_told_once(world: World, ann: tuple[str, str]) -> None:
    body = {"event": "service.event", "data": {"name": "n", "recipients": {"userIds": [ann[0]]}}}
    async with world.listening(ann[1]) as listener:
        for attempt in (1, 2):
            await world.noti.delivery.handle(Job("deploy-1.1", "service.event", body, attempt))
        await world.noti.delivery.handle(Job("deploy-1.2", "service.event", body, 1))
        await until(lambda: len(listener.named("service.event")) >= 2, "both facts arrive")
        assert [each["notificationMetadata"]["seq"] for each in listener.named("service.event")] == [1, 2]
    assert await world.noti.streams.unread(ann[0]) == 2


async def test_a_job_that_failed_half_way_tells_the_rest_when_it_is_repeated(
    world: World, ann: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, _ = await world.site.user("bob", Role.ORGANIZATION_VIEWER, org_id="org-2")
    body = {"event": "service.event", "data": {"name": "n", "recipients": {"userIds": [ann[0], bob]}}}
    real = world.site.store.insert

    async def breaking(collection: str, record: Record) -> None:
        if collection == INBOX and record["userId"] == bob:
            raise Unavailable("cannot reach the store: refused")
        await real(collection, record)

    async with world.listening(ann[1]) as listener:
        monkeypatch.setattr(world.site.store, "insert", breaking)
        with pytest.raises(Unavailable):
            await world.noti.delivery.handle(Job("deploy-1.1", "service.event", body, 1))
        monkeypatch.undo()
        await world.noti.delivery.handle(Job("deploy-1.1", "service.event", body, 2))
        await world.send("service.event", {"name": "end", "recipients": {"userIds": [ann[0]]}})
        await until(lambda: bool(listener.named("service.event")[1:]), "the end arrives")
        assert [each["name"] for each in listener.named("service.event")] == ["n", "end"]
        assert await world.noti.streams.unread(bob) == 1


async def test_a_hundred_jobs_arrive_in_the_order_of_the_queue(world: World, ann: tuple[str, str]) -> None:
    async with world.listening(ann[1]) as listener:
        for number in range(100):
            data = {"name": "n", "data": {"number": number}, "recipients": {"userIds": [ann[0]]}}
            await world.send("service.event", data)
        await until(lambda: len(listener.named("service.event")) >= 100, "all arrive")
        events = listener.named("service.event")
        assert [each["data"]["number"] for each in events] == list(range(100))
        assert [each["notificationMetadata"]["seq"] for each in events] == list(range(1, 101))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("service.event", "[]", "not an object"),
        ("service.event", '{"data": {"name": "n"}}', "names nobody"),
        ("service.event", '{"data": {"recipients": {"broadcast": true}}}', "neither a name nor a title"),
        ("unheard.of", '{"data": {"name": "n", "recipients": {"broadcast": true}}}', "event"),
        ("service.event", '{"data": {"name": 7, "recipients": {"broadcast": true}}}', "data.name"),
        (
            "service.event",
            '{"data": {"name": "n", "data": {"x": NaN}, "recipients": {"broadcast": true}}}',
            "data.data",
        ),
    ],
)
async def test_a_job_that_cannot_be_read_fails_with_a_reason_and_the_queue_moves_on(
    world: World, ann: tuple[str, str], name: str, text: str, reason: str
) -> None:
    async with world.listening(ann[1]) as listener:
        await world.queues.add_foreign(QUEUE, name, text)
        await world.send("service.event", {"name": "after", "recipients": {"broadcast": True}})
        await until(lambda: bool(listener.named("service.event")), "the next one arrives")
        ((_, why),) = world.queues.failed(QUEUE)
        assert "NOTIFICATION_INVALID" in why
        assert reason in why


@pytest.mark.parametrize(("kind", "code"), [("missing", "TOKEN_MISSING"), ("node", "TOKEN_INVALID")])
async def test_a_connect_without_a_user_token_is_refused_with_its_code(world: World, kind: str, code: str) -> None:
    token = None if kind == "missing" else world.site.tokens.issue(PrincipalKind.NODE, "node-1", expires_in=60)[0]
    client = socketio.AsyncClient(reconnection=False)
    refusals: list[Any] = []
    client.on("connect_error", refusals.append, namespace=NAMESPACE)
    try:
        with pytest.raises(Refused):
            await client.connect(
                world.url, auth=token and {"token": token}, namespaces=[NAMESPACE], transports=["websocket"]
            )
        assert refusals[0]["message"] == code
        assert refusals[0]["data"]["code"] == code
    finally:
        await client.shutdown()


async def test_a_token_in_the_authorization_header_is_as_good(world: World, ann: tuple[str, str]) -> None:
    async with world.listening(None, bearer(ann[1])) as listener:
        assert listener.events[0][1]["userId"] == ann[0]


async def test_client_events_are_acknowledged(world: World, ann: tuple[str, str]) -> None:
    async with world.listening(ann[1]) as listener:
        for name in ("one", "two", "three"):
            await world.send("service.event", {"name": name, "recipients": {"userIds": [ann[0]]}})
        await until(lambda: len(listener.named("service.event")) == 3, "all arrive")
        first = listener.named("service.event")[0]["notificationMetadata"]["notificationId"]
        assert await listener.call("notification.read", {"ids": [first]}) == {"ok": True}
        assert await world.noti.streams.unread(ann[0]) == 2
        assert await listener.call("notification.readAll") == {"ok": True}
        assert await world.noti.streams.unread(ann[0]) == 0
        unknown = await listener.call("notification.read", {"ids": ["noti-nobodys"]})
        assert (unknown["ok"], unknown["code"]) == (False, "NOTIFICATION_NOT_FOUND")
        assert (await listener.call("notification.read", {"ids": 3}))["code"] == "MESSAGE_INVALID"
        assert (await listener.call("dance"))["code"] == "MESSAGE_UNKNOWN"


async def test_topics_are_for_those_who_may_see_the_thing(world: World, ann: tuple[str, str]) -> None:
    for org in ("org-1", "org-2"):
        await world.site.store.insert("deployments", {"id": f"deploy-{org}", "owner": {"orgId": org}})
    async with world.listening(ann[1]) as listener:
        assert await listener.call("subscribe", {"topic": "deployment:deploy-org-1"}) == {"ok": True}
        assert await listener.call("unsubscribe", {"topic": "deployment:deploy-org-1"}) == {"ok": True}
        assert (await listener.call("subscribe", {"topic": "deployment:deploy-org-2"}))["code"] == "NOT_FOUND"
        assert (await listener.call("subscribe", {"topic": "weather:today"}))["code"] == "TOPIC_UNKNOWN"


async def test_the_inbox_over_rest(world: World, ann: tuple[str, str]) -> None:
    for name in ("one", "two"):
        await world.send("service.event", {"name": name, "data": DATA, "recipients": {"userIds": [ann[0]]}})

    async def both() -> bool:
        return await world.noti.streams.unread(ann[0]) == 2

    await until(both, "both are in the inbox")
    async with httpx2.AsyncClient(base_url=f"{world.url}/api/v1", headers=bearer(ann[1])) as http:
        page = (await http.get("/notifications", params={"unread": "true"})).json()
        assert page["pagination"] == {"page": 1, "limit": 20, "total": 2}
        newest, oldest = page["data"]
        assert (newest["name"], oldest["name"], newest["data"]) == ("two", "one", DATA)
        assert (newest["severity"], newest["read"], newest["readAt"]) == ("normal", False, None)
        marked = await http.patch(f"/notifications/{oldest['notificationId']}/read")
        assert (marked.status_code, marked.json()["read"]) == (200, True)
        assert (await http.get("/notifications/unread-count")).json() == {"count": 1}
        assert [each["name"] for each in (await http.get("/notifications?unread=false")).json()["data"]] == ["one"]
        assert (await http.post("/notifications/read-all")).json() == {"count": 1}
        assert (await http.patch("/notifications/noti-nobodys/read")).json()["code"] == "NOTIFICATION_NOT_FOUND"


async def test_only_a_universe_owner_announces(world: World, ann: tuple[str, str]) -> None:
    _, token = await world.site.user("root", Role.UNIVERSE_OWNER)
    body = {"title": "Maintenance", "message": "at noon", "recipients": {"broadcast": True}}
    async with world.listening(ann[1]) as listener, httpx2.AsyncClient(base_url=f"{world.url}/api/v1") as http:
        denied = await http.post("/notifications", json=body, headers=bearer(ann[1]))
        assert (denied.status_code, denied.json()["code"]) == (403, "DENIED")
        nobody = await http.post("/notifications", json={**body, "recipients": {}}, headers=bearer(token))
        assert nobody.status_code == 422
        accepted = await http.post(
            "/notifications", json=body, headers=bearer(token, **{"X-Correlation-Id": "corr-noon"})
        )
        assert accepted.status_code == 202
        await until(lambda: bool(listener.named("system.notification")), "it arrives")
        (told,) = listener.named("system.notification")
        assert told["notificationMetadata"]["notificationId"] == accepted.json()["notificationId"]
        assert told["notificationMetadata"]["correlationId"] == "corr-noon"
        assert (told["title"], told["severity"]) == ("Maintenance", "normal")
