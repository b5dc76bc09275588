"""Browsers come from listed origins alone, every answer is hardened, and nothing typed becomes structure elsewhere."""

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from aiwm.kit.logs import JsonFormatter
from aiwm.testing.world import World, open_world

FOREIGN = [
    "http://evil.example",
    "https://127.0.0.1",
    "http://127.0.0.1.evil.example",
    "http://evil-127.0.0.1",
    "null",
    "http://127.0.0.1:1",
    "*",
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as each:
        yield each


async def _ask(world: World, method: str, path: str, **options: Any) -> tuple[int, dict[str, str], str]:
    async with world.http.request(method, f"{world.url}{path}", allow_redirects=False, **options) as answer:
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.text()


async def test_browsers_of_other_origins_are_told_nothing(world: World) -> None:
    own = world.url
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin in (own, *FOREIGN):
        _, simple, _ = await _ask(world, "GET", "/api/v1/nodes", headers={"Origin": origin})
        status, preflight, _ = await _ask(world, "OPTIONS", "/api/v1/nodes", headers={"Origin": origin, **asked})
        mine = origin == own
        assert ("access-control-allow-origin" in simple) is mine, origin
        assert (status == 200) is mine, origin
        assert preflight.get("access-control-allow-origin") == (own if mine else None)
        assert "access-control-allow-credentials" not in {**simple, **preflight}


@pytest.mark.expects_errors
async def test_sockets_refuse_other_origins_and_take_clients_that_are_no_browser(world: World) -> None:
    path = "/socket.io/?EIO=4&transport=polling"
    for origin in FOREIGN:
        assert (await _ask(world, "GET", path, headers={"Origin": origin}))[0] == 400, origin
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await world.http.ws_connect(f"{world.url}/socket.io/?EIO=4&transport=websocket", headers={"Origin": origin})
    assert (await _ask(world, "GET", path, headers={"Origin": world.url}))[0] == 200
    assert (await _ask(world, "GET", path))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health/live", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/api-docs", 200),
        ("GET", "/api-docs/swagger-ui-bundle.js", 200),
        ("GET", "/nowhere", 404),
        ("DELETE", "/health/live", 405),
        ("GET", "/api/v1/nodes?limit=0", 422),
        ("GET", "/api/v1/nodes/node-none", 404),
        ("GET", "/api/v1/blobs/nonsense", 403),
        ("GET", "/v2/models/none", 404),
        ("GET", "/socket.io/?EIO=4&transport=polling", 200),
        pytest.param("GET", "/socket.io/?EIO=9", 400, marks=pytest.mark.expects_errors),
    ],
)
async def test_every_answer_is_hardened(world: World, method: str, path: str, status: int) -> None:
    got, headers, _ = await _ask(world, method, path)
    assert got == status
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self'" if path == "/api-docs" else "default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy
    assert "server" not in headers


async def test_the_docs_page_runs_no_script_of_its_own_text(world: World) -> None:
    _, headers, page = await _ask(world, "GET", "/api-docs")
    assert "'unsafe-inline'" not in headers["content-security-policy"].split("style-src")[0]
    assert "<script>" not in page
    assert " on" not in page.replace(" on ", "").split("<body>")[1].split("</body>")[0].split("script")[0]


@pytest.mark.parametrize(
    "given",
    ["a b", "x" * 129, "id\tid", "ü", '"; drop'],
)
async def test_a_correlation_id_that_is_no_token_is_replaced(world: World, given: str) -> None:
    raw = given.encode("utf-8", "surrogateescape").decode("latin-1")
    _, headers, _ = await _ask(world, "GET", "/health/live", headers={"X-Correlation-Id": raw})
    back = headers["x-correlation-id"]
    assert back.isascii()
    assert " " not in back
    assert back != raw


@pytest.mark.parametrize(
    "segment",
    [
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "node-1%00",
        "%0d%0aSet-Cookie:%20x=y",
        "%0aX-Injected:%20y",
        "node-1%20OR%201=1",
        "%27%3B--",
        "%24where",
        "{%22$ne%22:null}",
        "x" * 5000,
        "%ff%fe",
        "%F0%9F%92%A9",
        "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        ";a=b",
    ],
)
async def test_a_path_is_an_id_and_nothing_else(world: World, segment: str) -> None:
    for resource in ("nodes", "models", "deployments", "users", "organizations", "api-keys"):
        for method in ("GET", "DELETE"):
            url = URL(f"{world.url}/api/v1/{resource}/{segment}", encoded=True)
            async with world.http.request(method, url, allow_redirects=False) as answer:
                body = await answer.json(content_type=None)
                assert answer.status in (404, 405, 422), (resource, method, answer.status)
                assert "Set-Cookie" not in answer.headers
                assert "X-Injected" not in answer.headers
                assert answer.content_type == "application/problem+json"
                assert body["code"]
    chain = await world.call("GET", "/api/v1/audit", expect=200)
    assert chain["data"]


async def test_a_log_line_stays_one_line_whatever_is_asked(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="aiwm"):
        url = URL(f"{world.url}/a%0a%7B%22level%22:%22ERROR%22%7D%1b[31m", encoded=True)
        async with world.http.get(url) as answer:
            assert answer.status == 404
    lines = [JsonFormatter("t").format(record) for record in caplog.records if record.name == "aiwm.http.edge"]
    assert lines
    for line in lines:
        assert "\n" not in line
        assert "\x1b" not in line
        assert json.loads(line)["level"] == "INFO"


async def test_a_filter_carries_no_operator_and_widens_nothing(world: World) -> None:
    await world.call("POST", "/api/v1/nodes", json={"name": "n"}, expect=201)
    for query in (
        "filter[name][$ne]=x",
        "filter[$where]=1",
        "filter[owner.orgId]=x",
        "filter[owner]=x",
        "filter[name]=a&filter[name]=b",
        "sort=name;drop",
        "sort=$natural",
        "$where=1",
        "page=-1",
        "limit=1e3",
    ):
        status, _, text = await _ask(world, "GET", f"/api/v1/nodes?{query}")
        assert (status, json.loads(text)["code"]) == (422, "VALIDATION_FAILED"), query
    for value in ("{%22$ne%22:null}", "%27%20OR%20%271%27=%271", "%25", "_", ".*"):
        found = await world.call("GET", f"/api/v1/nodes?filter[name]={value}", expect=200)
        assert found["data"] == [], value
        assert (await world.call("GET", f"/api/v1/nodes?q={value}1", expect=200))["data"] == [], value
