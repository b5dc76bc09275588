"""Uploads to somebody else's object store: no credentials of ours, fresh URLs, second tries, nothing left behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.http_support import until

from aiwm.protocol.errors import Unavailable
from aiwm.sdk import Client

PART = 1000
EXPIRES = "2100-01-01T00:00:00.000Z"
UPLOADS = "/api/v1/models/model-1/uploads"


@dataclass
class Store:
    """A stand-in for a controller and a store: refuses, fails and counts as a test wants."""

    refuse: int = 0
    fail: int = 0
    hold: bool = False
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    puts: list[web.Request] = field(default_factory=list)
    completed: Any = None
    abandoned: int = 0
    renewals: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=10 * PART)
        app.router.add_post(UPLOADS, self.create)
        app.router.add_get(f"{UPLOADS}/upload-1", self.renew)
        app.router.add_delete(f"{UPLOADS}/upload-1", self.abandon)
        app.router.add_post(f"{UPLOADS}/upload-1/complete", self.complete)
        app.router.add_put("/store/{path}/{number}", self.put)
        return app

    async def create(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer ours"
        self.files = (await request.json())["files"]
        return web.json_response(self.view("stale" if self.refuse else "fresh"), status=201)

    async def renew(self, _request: web.Request) -> web.Response:
        self.renewals += 1
        return web.json_response(self.view("fresh"))

    async def abandon(self, _request: web.Request) -> web.Response:
        self.abandoned += 1
        return web.Response(status=204)

    async def complete(self, request: web.Request) -> web.Response:
        self.completed = await request.json()
        return web.json_response({"code": "ENOUGH"}, status=503)

    async def put(self, request: web.Request) -> web.Response:
        self.puts.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        content = await request.read()
        self.at_once -= 1
        if request.query["signed"] == "stale":
            return web.Response(status=403, text="<Error>expired</Error>")
        if self.hold:
            await asyncio.Event().wait()
        if self.fail:
            self.fail -= 1
            return web.Response(status=503)
        path, number = request.match_info["path"], int(request.match_info["number"])
        self.parts[path, number] = content
        return web.Response(headers={"ETag": f'"{path}-{number}"'})

    def view(self, signed: str) -> dict[str, Any]:
        files = [
            {
                "path": file["path"],
                "parts": [
                    {"partNumber": number, "url": f"/store/{file['path']}/{number}?signed={signed}&x=a%2Fb"}
                    for number in range(1, max(1, -(-file["size"] // PART)) + 1)
                ],
            }
            for file in self.files
        ]
        return {"uploadId": "upload-1", "partSize": PART, "files": files, "expiresAt": EXPIRES}


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def client(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setattr("aiwm.sdk.uploads.FIRST_PAUSE_SECONDS", 0.001)
    async with TestServer(store.app()) as server, Client(str(server.make_url("/")), token="ours") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "big").write_bytes(bytes(range(250)) * 18)
    (tmp_path / "empty").touch()
    return tmp_path


async def send(client: Client, folder: Path) -> None:
    """The stand-in refuses the end, so that no model has to be made up."""
    with pytest.raises(Unavailable):
        await client.models.upload("model-1", folder, concurrency=2)


async def test_parts_go_without_our_credentials_and_arrive_whole(client: Client, store: Store, folder: Path) -> None:
    await send(client, folder)
    content = (folder / "big").read_bytes()
    assert b"".join(store.parts["big", number] for number in range(1, 6)) == content
    assert store.parts["empty", 1] == b""
    for request in store.puts:
        assert "Authorization" not in request.headers
        assert "Transfer-Encoding" not in request.headers
        assert request.raw_path.endswith("x=a%2Fb")
    assert store.most_at_once <= 2


async def test_etags_are_handed_back_as_they_came(client: Client, store: Store, folder: Path) -> None:
    await send(client, folder)
    big, empty = store.completed["files"]
    assert [part["etag"] for part in big["parts"]] == [f'"big-{number}"' for number in range(1, 6)]
    assert empty == {"path": "empty", "parts": [{"partNumber": 1, "etag": '"empty-1"'}]}
    assert "null" not in json.dumps(store.completed)


async def test_a_part_that_failed_is_sent_again(client: Client, store: Store, folder: Path) -> None:
    store.fail = 2
    await send(client, folder)
    assert len(store.parts) == 6
    assert len(store.puts) == 8


async def test_urls_that_have_expired_are_renewed(client: Client, store: Store, folder: Path) -> None:
    store.refuse = 1
    await send(client, folder)
    assert len(store.parts) == 6
    assert store.renewals == 6


async def test_an_upload_that_fails_is_abandoned(client: Client, store: Store, folder: Path) -> None:
    store.fail = 1000
    await send(client, folder)
    assert store.abandoned == 1
    assert store.completed is None


async def test_an_upload_that_is_cancelled_is_abandoned(client: Client, store: Store, folder: Path) -> None:
    store.hold = True
    sending = asyncio.create_task(client.models.upload("model-1", folder))
    await until(lambda: bool(store.puts), "the first part is under way")
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert store.abandoned == 1
