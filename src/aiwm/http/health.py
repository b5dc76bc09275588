"""`/health/live`, `/health/ready` and `/metrics`, the same on every service."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.types import Scope

from aiwm.http.gate import API, PUBLIC, Gate, bearer
from aiwm.protocol.errors import AiwmError

_CHECK_SECONDS = 3.0

Check = Callable[[], Awaitable[None]]


class HttpMetrics:
    """How many requests, and how long they took, by route template."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "route", "status")
        self._requests = Counter("aiwm_http_requests_total", "Requests answered.", labels, registry=registry)
        self._seconds = Histogram(
            "aiwm_http_request_seconds", "Time until an answer was complete.", labels[:2], registry=registry
        )

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts one request."""
        route = _template(scope)
        self._requests.labels(scope["method"], route, str(status)).inc()
        self._seconds.labels(scope["method"], route).observe(seconds)


def health_router(ready: Mapping[str, Check], gate: Gate, registry: CollectorRegistry) -> APIRouter:
    """The routes; `ready` are checks by name, each raising an `AiwmError` when its part is away."""
    router = APIRouter(include_in_schema=False, dependencies=[PUBLIC])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.get("/health/ready")
    async def readiness() -> Response:
        answers = dict(zip(ready, await asyncio.gather(*map(_ask, ready.values())), strict=True))
        missing = [name for name, answer in answers.items() if answer != "ok"]
        body = {"status": "not ready" if missing else "ready", "notReady": missing, "checks": answers}
        return JSONResponse(body, status_code=503 if missing else 200)

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        if not _from_here(request):
            await gate.admit(bearer(request), "metrics.read")
        # A thousand nodes make megabytes of text: too much work for the event loop.
        text = await asyncio.to_thread(generate_latest, registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router


def _template(scope: Scope) -> str:
    """The matched route's path, where parameters have names. A route knows its router's prefix, not that of the API."""
    path: str | None = getattr(scope.get("route"), "path", None)
    if path is None:
        return "unmatched"
    return API + path if scope["path"].startswith(API + "/") and not path.startswith(API) else path


async def _ask(check: Check) -> str:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await check()
    except AiwmError as error:
        return error.code
    except TimeoutError:
        return "TIMEOUT"
    return "ok"


def _from_here(request: Request) -> bool:
    """From this machine itself, and not through a proxy that runs on it."""
    if request.client is None or "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
