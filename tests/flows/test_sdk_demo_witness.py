"""The demo's witness: an event that does not come, or says something else, fails the demo."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiwm.cli.demo_events import Witness
from aiwm.cli.demo_road import check_started
from aiwm.protocol.errors import Conflict, TimedOut, Unauthenticated
from aiwm.protocol.notifications import Delivery
from aiwm.sdk import Live

STARTED = {"deploymentId": "deploy-1", "modelName": "digits", "status": "deploying"}


def delivery(name: str, data: dict[str, Any], correlation_id: str = "corr-1") -> Delivery:
    place = {"notificationId": "n", "seq": 1, "epoch": "e", "createdAt": "2026-01-01T00:00:00.000Z"}
    about = {**place, "correlationId": correlation_id}
    return Delivery.model_validate({"name": name, "data": data, "notificationMetadata": about, "recipients": {}})


class Scripted(Live):
    """Live events without a server."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", "token")

    async def __aenter__(self) -> "Scripted":
        return self

    def comes(self, event: Delivery | Unauthenticated) -> None:
        self._events.put_nowait(event if isinstance(event, Unauthenticated) else ("service.event", event))


@pytest.fixture
def live() -> Scripted:
    return Scripted()


@pytest.fixture
def told() -> list[Delivery]:
    return []


@pytest.fixture
async def witness(live: Scripted, told: list[Delivery], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Witness]:
    monkeypatch.setattr("aiwm.cli.demo_events.PATIENCE_SECONDS", 0.2)
    async with Witness(live, told.append) as opened:
        yield opened


async def test_an_event_counts_whether_it_came_before_or_comes_after_it_is_expected(
    live: Scripted, told: list[Delivery], witness: Witness
) -> None:
    live.comes(delivery("node.online", {"nodeId": "node-1", "name": "x"}))
    assert (await witness.expect("node.online", nodeId="node-1")).data == {"nodeId": "node-1", "name": "x"}
    expecting = asyncio.create_task(witness.expect("node.online", nodeId="node-2"))
    live.comes(delivery("node.online", {"nodeId": "node-2"}))
    assert (await expecting).data == {"nodeId": "node-2"}
    assert len(told) == 2


async def test_an_event_about_something_else_is_not_the_one(live: Scripted, witness: Witness) -> None:
    live.comes(delivery("node.online", {"nodeId": "node-2"}))
    live.comes(delivery("node.offline", {"nodeId": "node-1"}))
    with pytest.raises(TimedOut, match=r"the live event node\.online did not arrive") as missing:
        await witness.expect("node.online", nodeId="node-1")
    assert missing.value.code == "EVENT_MISSING"


async def test_a_refused_connection_is_told_instead_of_waiting(live: Scripted, witness: Witness) -> None:
    live.comes(Unauthenticated("cannot listen: signed out", code="TOKEN_INVALID"))
    with pytest.raises(Unauthenticated):
        await witness.expect("node.online")


def test_the_started_event_must_be_exactly_the_sources() -> None:
    check_started(delivery("model.deployment.started", STARTED), "deploy-1", "digits", "corr-1")
    more = {**STARTED, "more": 1}
    with pytest.raises(Conflict, match="its data is"):
        check_started(delivery("model.deployment.started", more), "deploy-1", "digits", "corr-1")
    with pytest.raises(Conflict, match="its correlation id is corr-2"):
        check_started(delivery("model.deployment.started", STARTED, "corr-2"), "deploy-1", "digits", "corr-1")
