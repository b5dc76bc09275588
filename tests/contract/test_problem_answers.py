"""The HTTP kit: every failure is a problem with a code and a correlation id, and nothing leaks."""

import logging
from collections.abc import AsyncIterator
from typing import Annotated

import httpx2
import pytest
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from tests.http_support import Site, bearer, client, site

from aiwm.access.guard import PUBLIC
from aiwm.access.principal import Principal
from aiwm.http.app import create_app
from aiwm.http.conditional import check_version, if_match
from aiwm.http.paging import Listing, ListingWith, listing
from aiwm.kit.context import correlation_id
from aiwm.protocol import errors
from aiwm.protocol.base import Params
from aiwm.protocol.resources.deployments import ResourcesParams, Strategy
from aiwm.protocol.states import Role

FAMILIES = {
    each.__name__: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.AiwmError) and each is not errors.AiwmError
}


class Order(Params):
    name: str
    amounts: list[int] = []
    resources: ResourcesParams = ResourcesParams()
    strategy: Strategy = Strategy()


def _routes(here: Site) -> APIRouter:
    router = APIRouter(prefix="/things", dependencies=[PUBLIC])

    @router.post("/fail/{family}")
    async def fail(family: str) -> None:
        raise FAMILIES[family]("cannot do it: because")

    @router.get("/bug")
    async def bug() -> None:
        raise RuntimeError("the secret plan")

    @router.get("/late-bug")
    async def late_bug() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError("the secret plan")

        return StreamingResponse(parts())

    @router.post("")
    async def make(order: Order) -> dict[str, str | None]:
        return {"correlation": correlation_id()}

    @router.patch("")
    async def change(expected: Annotated[int | None, Depends(if_match)]) -> None:
        check_version(expected, 3)

    @router.get("")
    async def things(what: Annotated[Listing, Depends(listing)]) -> dict[str, int]:
        return {"limit": what.limit}

    @router.get("/more")
    async def more(
        what: Annotated[Listing, Depends(ListingWith("unread"))], unread: Annotated[bool, Query()] = False
    ) -> dict[str, bool]:
        return {"unread": unread}

    return router


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    async with site() as each:
        yield each


@pytest.fixture
async def http(here: Site) -> AsyncIterator[httpx2.AsyncClient]:
    async def away() -> None:
        raise errors.Unavailable("cannot reach the store: refused")

    closed = APIRouter(prefix="/closed")

    @closed.get("")
    async def guarded(who: Annotated[Principal, here.guard.needs("nodes.write")]) -> str:
        return who.id

    app = create_app(
        title="Test",
        routers=[_routes(here), closed],
        ready={"store": here.store.ping, "redis": away},
        guard=here.guard,
        settings=here.settings,
    )
    async with client(app) as requests:
        yield requests


def _problem(answer: httpx2.Response, status: int, code: str) -> dict[str, object]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = answer.json()
    assert {"type", "title", "status", "detail", "instance", "code", "correlationId", "errors"} <= body.keys()
    assert body["status"] == status
    assert body["code"] == code
    assert body["correlationId"] == answer.headers["x-correlation-id"]
    return body


@pytest.mark.parametrize("family", sorted(FAMILIES))
async def test_every_family_is_answered_with_its_status_and_code(http: httpx2.AsyncClient, family: str) -> None:
    error = FAMILIES[family]
    answer = await http.post(f"/api/v1/things/fail/{family}?secret=x")
    body = _problem(answer, error.status, error.default_code)
    assert body["detail"] == "cannot do it: because"
    assert body["instance"] == f"/api/v1/things/fail/{family}"
    assert (answer.headers.get("www-authenticate") == "Bearer") == (error.status == 401)
    assert ("retry-after" in answer.headers) == (error.status in (429, 503))


@pytest.mark.expects_errors
async def test_a_bug_is_answered_without_its_cause_and_logged_with_it(
    http: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.get("/api/v1/things/bug", headers={"X-Correlation-Id": "corr-bug"})
    body = _problem(answer, 500, "INTERNAL_ERROR")
    assert "secret plan" not in answer.text
    assert body["correlationId"] == "corr-bug"
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "secret plan" in str(record.exc_info[1])


@pytest.mark.expects_errors
async def test_an_answer_that_breaks_half_way_is_cut_and_not_completed(http: httpx2.AsyncClient) -> None:
    with pytest.raises(RuntimeError):
        await http.get("/api/v1/things/late-bug")


async def test_every_field_that_does_not_fit_is_named_unknown_ones_too(http: httpx2.AsyncClient) -> None:
    order = {"amounts": [1, "x"], "resources": {"gpuCount": -1, "gpus": 2}, "colour": "red"}
    body = _problem(await http.post("/api/v1/things", json=order), 422, "VALIDATION_FAILED")
    found = body["errors"]
    assert isinstance(found, list)
    assert {each["field"] for each in found} == {"name", "amounts[1]", "resources.gpuCount", "resources.gpus", "colour"}
    assert all(each["message"] and each["code"] for each in found)


@pytest.mark.parametrize("content", ["{", "", "nonsense", '{"name": }'])
async def test_a_body_that_is_not_json_is_malformed(http: httpx2.AsyncClient, content: str) -> None:
    answer = await http.post("/api/v1/things", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("MALFORMED", "VALIDATION_FAILED")


async def test_a_body_of_another_type_is_told_what_to_send(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/api/v1/things", content='{"name": "x"}', headers={"Content-Type": "text/plain"})
    assert "Content-Type: application/json" in str(_problem(answer, 400, "MALFORMED")["detail"])


async def test_a_body_over_a_megabyte_is_too_large_whether_its_length_is_declared_or_not(
    http: httpx2.AsyncClient,
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    _problem(await http.post("/api/v1/things", content=b"x" * 1_048_577), 413, "TOO_LARGE")
    _problem(await http.post("/api/v1/things", content=endless()), 413, "TOO_LARGE")


async def test_unknown_paths_and_methods_are_problems_too(http: httpx2.AsyncClient) -> None:
    _problem(await http.get("/api/v1/nothing"), 404, "ROUTE_NOT_FOUND")
    answer = await http.put("/api/v1/things")
    _problem(answer, 405, "METHOD_NOT_ALLOWED")
    assert "allow" in answer.headers


async def test_a_correlation_id_is_taken_or_made_and_reaches_the_work(http: httpx2.AsyncClient) -> None:
    order = {"name": "x"}
    taken = await http.post("/api/v1/things", json=order, headers={"X-Correlation-Id": "corr-mine"})
    assert (taken.headers["x-correlation-id"], taken.json()["correlation"]) == ("corr-mine", "corr-mine")
    for refused in ("with space", "x" * 129, ""):
        made = await http.post("/api/v1/things", json=order, headers={"X-Correlation-Id": refused})
        assert made.headers["x-correlation-id"].startswith("corr-0")
        assert made.json()["correlation"] == made.headers["x-correlation-id"]


async def test_a_change_for_another_version_is_refused(http: httpx2.AsyncClient) -> None:
    assert (await http.patch("/api/v1/things", headers={"If-Match": '"3"'})).status_code == 200
    stale = _problem(await http.patch("/api/v1/things", headers={"If-Match": "2"}), 412, "VERSION_MISMATCH")
    assert stale["details"] == {"resourceVersion": 3}


async def test_query_parameters_that_nobody_knows_are_refused_by_name(http: httpx2.AsyncClient) -> None:
    body = _problem(await http.get("/api/v1/things?lmit=3"), 422, "VALIDATION_FAILED")
    assert body["errors"] == [
        {"field": "lmit", "message": "is not a query parameter of this list", "code": "QUERY_INVALID"}
    ]
    assert (await http.get("/api/v1/things/more?unread=true")).json() == {"unread": True}


async def test_a_caller_without_the_permission_is_denied_and_one_without_token_told_how(
    http: httpx2.AsyncClient, here: Site
) -> None:
    viewer, token = await here.user("viewer", Role.ORGANIZATION_VIEWER, org_id="org-1")
    editor, allowed = await here.user("editor", Role.ORGANIZATION_EDITOR, org_id="org-1")
    anonymous = await http.get("/api/v1/closed")
    _problem(anonymous, 401, "TOKEN_MISSING")
    assert anonymous.headers["www-authenticate"] == "Bearer"
    _problem(await http.get("/api/v1/closed", headers={"Authorization": f"Basic {token}"}), 401, "TOKEN_MISSING")
    _problem(await http.get(f"/api/v1/closed?token={allowed}"), 401, "TOKEN_MISSING")
    denied = _problem(await http.get("/api/v1/closed", headers=bearer(token)), 403, "DENIED")
    assert "nodes.write" in str(denied["detail"])
    assert (await http.get("/api/v1/closed", headers=bearer(allowed))).json() == editor != viewer


async def test_a_route_that_declares_nothing_keeps_the_service_from_starting(here: Site) -> None:
    router = APIRouter(prefix="/forgotten")

    @router.get("")
    async def forgotten() -> str:
        return "secret"

    with pytest.raises(RuntimeError, match="GET /api/v1/forgotten"):
        create_app(title="T", routers=[router], ready={}, guard=here.guard, settings=here.settings)
    with pytest.raises(RuntimeError, match="GET /forgotten"):
        create_app(title="T", routers=[], root_routers=[router], ready={}, guard=here.guard, settings=here.settings)


async def test_readiness_names_what_is_not_ready(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not ready",
        "notReady": ["redis"],
        "checks": {"store": "ok", "redis": "UNAVAILABLE"},
    }
    assert (await http.get("/health/live")).json() == {"status": "live"}


async def test_metrics_are_for_this_machine_or_a_credential(http: httpx2.AsyncClient, here: Site) -> None:
    await http.get("/api/v1/things?limit=7")
    text = (await http.get("/metrics")).text
    assert 'aiwm_http_requests_total{method="GET",route="/api/v1/things",status="200"} 1.0' in text
    assert "limit" not in text
    proxied = {"X-Forwarded-For": "203.0.113.7"}
    _problem(await http.get("/metrics", headers=proxied), 401, "TOKEN_MISSING")
    _, member = await here.user("member", Role.ORGANIZATION_OWNER, org_id="org-1")
    _problem(await http.get("/metrics", headers=bearer(member, **proxied)), 403, "DENIED")
    _, watcher = await here.user("watcher", Role.UNIVERSE_VIEWER)
    assert (await http.get("/metrics", headers=bearer(watcher, **proxied))).status_code == 200


async def test_the_docs_come_from_here_alone(http: httpx2.AsyncClient) -> None:
    page = await http.get("/api-docs")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "start.js"):
        assert f"api-docs/{asset}" in page.text
        assert (await http.get(f"/api-docs/{asset}")).status_code == 200
    _problem(await http.get("/api-docs/..%2Fapp.py"), 404, "ROUTE_NOT_FOUND")
    schema = (await http.get("/openapi.json")).json()
    assert "/api/v1/things" in schema["paths"]
    assert "Problem" in schema["components"]["schemas"]


async def test_browsers_may_come_from_our_own_address_and_from_no_other(http: httpx2.AsyncClient) -> None:
    for origin, allowed in (
        ("http://127.0.0.1:3003", True),
        ("http://localhost:3002", True),
        ("http://evil.io", False),
    ):
        answer = await http.get("/health/live", headers={"Origin": origin})
        assert ("access-control-allow-origin" in answer.headers) is allowed


async def test_every_answer_carries_the_security_headers(http: httpx2.AsyncClient) -> None:
    for path in ("/health/live", "/api/v1/nothing", "/api/v1/things"):
        headers = (await http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
