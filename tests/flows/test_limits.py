"""Hostile or careless clients: too many, too slow, too large, and requests that are no requests."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from fastapi import APIRouter
from tests.http_support import Site, bearer, client, served, site

from aiwm.access.guard import PUBLIC
from aiwm.http import body, protocol
from aiwm.http.app import create_app
from aiwm.http.limits import BURST_SECONDS, MAX_CALLERS, Buckets, network_of
from aiwm.kit.settings import Settings, SettingsError, load_settings
from aiwm.protocol.errors import TooMany
from aiwm.protocol.states import Role

RATE = 2
BURST = RATE * BURST_SECONDS


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    async with site() as each:
        yield each


def _app(here: Site, **limits: int) -> Any:
    router = APIRouter(prefix="/things")

    @router.get("", dependencies=[here.guard.signed_in()])
    async def things() -> list[str]:
        return []

    @router.post("", dependencies=[PUBLIC])
    async def make(thing: dict[str, object]) -> int:
        return len(thing)

    settings = Settings(**{"rate_limit": 0, "rate_limit_address": 0, **limits})  # type: ignore[arg-type]
    return create_app(title="T", routers=[router], ready={}, guard=here.guard, settings=settings)


async def test_one_principal_cannot_crowd_out_another(here: Site) -> None:
    tokens = [(await here.user(name, Role.ORGANIZATION_VIEWER, org_id="o"))[1] for name in ("a", "b")]
    async with client(_app(here, rate_limit=RATE)) as http:
        statuses = [(await http.get("/api/v1/things", headers=bearer(tokens[0]))).status_code for _ in range(BURST)]
        over = await http.get("/api/v1/things", headers=bearer(tokens[0]))
        other = await http.get("/api/v1/things", headers=bearer(tokens[1]))
    assert set(statuses) == {200}
    assert (over.status_code, over.json()["code"], over.headers["retry-after"]) == (429, "TOO_MANY_REQUESTS", "1")
    assert other.status_code == 200


async def test_an_address_is_limited_whoever_it_says_it_is(here: Site) -> None:
    async with client(_app(here, rate_limit_address=RATE)) as http:
        answers = [await http.get("/api/v1/things", headers=bearer(f"guess-{index}")) for index in range(BURST + 1)]
        proxied = await http.get("/api/v1/things", headers={"X-Forwarded-For": "198.51.100.1, 203.0.113.9"})
    assert [each.status_code for each in answers[:-1]] == [401] * BURST
    assert (answers[-1].status_code, answers[-1].headers["retry-after"]) == (429, "1")
    assert answers[-1].headers["x-content-type-options"] == "nosniff"
    assert proxied.status_code == 401


def test_room_comes_back_with_time_and_the_table_stays_bounded() -> None:
    moment = [0.0]
    buckets = Buckets(RATE, lambda: moment[0])
    for _ in range(BURST):
        buckets.take("a")
    with pytest.raises(TooMany):
        buckets.take("a")
    moment[0] += 0.5
    buckets.take("a")
    for index in range(MAX_CALLERS + 50):
        buckets.take(f"key-{index}")
    assert len(buckets._buckets) == MAX_CALLERS


def test_one_ipv6_network_is_one_sender() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") != network_of("2001:db8:0:1::1")
    assert network_of("203.0.113.7") == "203.0.113.7"


@pytest.mark.parametrize("text", ["-1", "many", "1.5", ""])
def test_a_limit_that_is_no_number_is_refused(text: str) -> None:
    environment = {"AIWM_RATE_LIMIT": text} if text else {"AIWM_RATE_LIMIT_ADDRESS": " "}
    with pytest.raises(SettingsError, match="whole number"):
        load_settings(environment=environment)


async def _talk(url: str, *pieces: bytes, pause: float = 0.0) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_head_that_does_not_end_is_cut_off(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    async with served(_app(here)) as url:
        began = time.monotonic()
        assert await _talk(url) == b""
        assert await _talk(url, b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"b", b"b", pause=0.05) == b""
        assert await _talk(url, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n", pause=0.1)
        assert time.monotonic() - began < 5


async def test_a_body_that_does_not_end_is_answered_408(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.3)
    head = b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
    async with served(_app(here)) as url:
        answer = await _talk(url, head, b"{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"REQUEST_TOO_SLOW" in answer


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"X-%d: y\r\n" % index for index in range(200)),
        b"X-Long: " + b"y" * 100_000 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (index, b"y" * 1000) for index in range(90)),
    ],
)
async def test_heads_that_are_too_large_are_answered_431(here: Site, head: bytes) -> None:
    async with served(_app(here)) as url:
        answer = await _talk(url, b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
        endless = await _talk(url, b"GET /health/live HTTP/1.1\r\nX: ", *[b"y" * 10_000] * 10)
        path = await _talk(url, b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        fine = await _talk(url, b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431")
    assert b"HEADERS_TOO_LARGE" in answer
    assert endless[:12] in (b"HTTP/1.1 431", b"")
    assert path.startswith(b"HTTP/1.1 431")
    assert fine.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
        b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_answered_400_and_nothing_is_smuggled(here: Site, request_: bytes) -> None:
    async with served(_app(here)) as url:
        answer = await _talk(url, request_)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"nosniff" in answer


async def test_a_body_of_a_hundred_megabytes_is_refused_early(here: Site) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1600):
            yield b"x" * 65_536

    async with served(_app(here)) as url, aiohttp.ClientSession() as http:
        for size, data in (("100000000", pieces()), (None, pieces())):
            headers = {"Content-Type": "application/json"} | ({"Content-Length": size} if size else {})
            began = time.monotonic()
            async with http.post(f"{url}/api/v1/things", data=data, headers=headers) as answer:
                assert (answer.status, (await answer.json(content_type=None))["code"]) == (413, "TOO_LARGE")
            assert time.monotonic() - began < 5
        async with http.get(f"{url}/health/live") as answer:
            assert answer.status == 200
