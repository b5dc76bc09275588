"""Uploads that are begun and not finished, or finished twice."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aiwm.infra.store.port import Where
from aiwm.models.artifacts import Artifacts
from aiwm.models.records import UPLOADS
from aiwm.models.uploads import LIFETIME, UploadService
from aiwm.testing.road import TINY_MODEL, ready_model
from aiwm.testing.world import World, open_world


class LaterClock:
    """The world's clock, `ahead` in the future."""

    def __init__(self, world: World, ahead: timedelta) -> None:
        self._clock, self._ahead = world.infra.clock, ahead

    def now(self) -> Any:
        return self._clock.now() + self._ahead

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def begun(world: World) -> tuple[str, Any]:
    made = await world.call("POST", "/api/v1/models", json={"name": "m", "framework": "triton"}, expect=201)
    path = f"/api/v1/models/{made['modelId']}/uploads"
    return path, await world.call("POST", path, json={"files": [{"path": "x", "size": 3}]}, expect=201)


async def test_an_upload_nobody_finishes_is_forgotten_with_its_parts_after_its_time(world: World) -> None:
    path, upload = await begun(world)
    async with world.http.put(upload["files"][0]["parts"][0]["url"], data=b"abc") as answer:
        assert answer.status == 200
    relay = world.controller.relay.wake
    now = UploadService(world.infra.store, world.infra.objects, world.infra.clock, relay)
    assert await now.forget_expired() == 0
    later = UploadService(world.infra.store, world.infra.objects, LaterClock(world, LIFETIME), relay)
    assert await later.forget_expired() == 1
    assert await world.infra.store.count(UPLOADS, (Where("completed", "eq", False),)) == 0
    assert not list((world.folder / "objects" / "uploads").iterdir())
    await world.call("GET", f"{path}/{upload['uploadId']}", expect=404)


async def test_an_abandoned_upload_is_gone_and_another_can_begin(world: World) -> None:
    path, upload = await begun(world)
    await world.call("DELETE", f"{path}/{upload['uploadId']}", expect=204)
    answer = await world.call("GET", f"{path}/{upload['uploadId']}", expect=404)
    assert answer["code"] == "UPLOAD_NOT_FOUND"
    await world.call("POST", path, json={"files": [{"path": "x", "size": 3}]}, expect=201)


async def test_parts_that_are_there_are_told_so_that_an_upload_can_go_on(world: World) -> None:
    path, upload = await begun(world)
    async with world.http.put(upload["files"][0]["parts"][0]["url"], data=b"abc") as answer:
        etag = answer.headers["ETag"].strip('"')
    again: Any = await world.call("GET", f"{path}/{upload['uploadId']}", expect=200)
    assert again["files"][0]["parts"][0]["etag"] == etag


async def test_completing_with_a_part_missing_is_refused_and_completing_twice_changes_nothing(world: World) -> None:
    path, upload = await begun(world)
    complete = f"{path}/{upload['uploadId']}/complete"
    async with world.http.put(upload["files"][0]["parts"][0]["url"], data=b"abc") as answer:
        etag = answer.headers["ETag"]
    for wrong in ([{"partNumber": 2, "etag": etag}], [{"partNumber": 1, "etag": etag}] * 2):
        refused = await world.call("POST", complete, json={"files": [{"path": "x", "parts": wrong}]}, expect=422)
        assert refused["code"] == "UPLOAD_INCOMPLETE"
    body = {"files": [{"path": "x", "parts": [{"partNumber": 1, "etag": etag}]}]}
    for _ in range(2):
        await world.call("POST", complete, json=body, expect=202)


async def test_a_signed_url_serves_its_own_method_alone(world: World) -> None:
    _, upload = await begun(world)
    async with world.http.get(upload["files"][0]["parts"][0]["url"]) as answer:
        assert answer.status == 403
        assert (await answer.json())["code"] == "TICKET_INVALID"


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        (None, 200, TINY_MODEL["config.pbtxt"]),
        ("bytes=3-", 206, TINY_MODEL["config.pbtxt"][3:]),
        ("bytes=0-3", 206, TINY_MODEL["config.pbtxt"][:4]),
        ("bytes=1-999", 206, TINY_MODEL["config.pbtxt"][1:]),
        ("bytes=999-", 422, None),
        ("lines=1-2", 422, None),
    ],
)
async def test_a_file_is_served_by_ticket_whole_or_in_part(
    world: World, wanted: str | None, status: int, content: bytes | None
) -> None:
    model_id = await ready_model(world)
    record = await world.controller.models.record(model_id)
    held = await world.controller.models.content(model_id)
    artifact = Artifacts(world.infra.objects, world.infra.tickets, world.url).of(record, held)
    (file,) = [each for each in artifact.files if each.path == "config.pbtxt"]
    async with world.http.get(file.urls[0], headers={"Range": wanted} if wanted else {}) as answer:
        assert answer.status == status
        assert content is None or await answer.read() == content
