"""One way to make every HTTP service: errors, correlation, limits, health, metrics, schema and docs around routers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CollectorRegistry

from aiwm import __version__
from aiwm.http import problems
from aiwm.http.audit import Audited, Recorder
from aiwm.http.body import BodyLimit
from aiwm.http.docs import docs_router
from aiwm.http.edge import CORRELATION_HEADER, Edge
from aiwm.http.gate import API, Gate, check_default_deny
from aiwm.http.health import Check, HttpMetrics, health_router
from aiwm.http.idempotency import HEADER, Idempotency, IdempotencyKeys
from aiwm.http.limits import Buckets, RateLimits
from aiwm.kit.settings import Settings
from aiwm.protocol.errors import Problem

_LOCAL = ("127.0.0.1", "localhost")

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Service(FastAPI):
    """Its schema says that failures are problems, in their own media type."""

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        for methods in schema["paths"].values():
            for operation in methods.values():
                content = operation["responses"]["default"]["content"]
                if "application/json" in content:
                    content[problems.MEDIA_TYPE] = content.pop("application/json")
        return schema


def create_app(
    *,
    title: str,
    routers: Sequence[APIRouter],
    ready: Mapping[str, Check],
    guard: Gate,
    settings: Settings,
    lifespan: Lifespan | None = None,
    root_routers: Sequence[APIRouter] = (),
    idempotency: IdempotencyKeys | None = None,
    recorder: Recorder | None = None,
    registry: CollectorRegistry | None = None,
) -> FastAPI:
    """An application with `routers` under `/api/v1` and `root_routers` where they say themselves.

    Raises `RuntimeError` when a route declares neither a permission nor that it is public.
    """
    registry = registry or CollectorRegistry()
    app = Service(
        title=title,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        responses={"default": {"model": Problem, "description": "Why it was not done."}},
    )
    for router in routers:
        app.include_router(router, prefix=API)
    for router in (*root_routers, health_router(ready, guard, registry), docs_router(title)):
        app.include_router(router)
    check_default_deny(app)
    problems.install(app)
    if idempotency is not None:
        app.add_middleware(Idempotency, keys=idempotency, gate=guard)
    if recorder is not None:
        app.add_middleware(Audited, recorder=recorder)
    app.add_middleware(BodyLimit)
    app.add_middleware(
        RateLimits, principals=Buckets(settings.rate_limit), addresses=Buckets(settings.rate_limit_address)
    )
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins(settings),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "If-Match", HEADER, CORRELATION_HEADER],
        expose_headers=[CORRELATION_HEADER, "Location", "Retry-After"],
    )
    app.add_middleware(Edge, observe=HttpMetrics(registry).observe)
    return app


def origins(settings: Settings) -> list[str]:
    """Browser origins that may use REST and sockets: those that are set, else only our own addresses."""
    named = [each.strip().rstrip("/") for each in settings.allowed_origins.split(",") if each.strip()]
    if named:
        return named
    own = urlsplit(settings.own_url)
    hosts = {own.hostname or settings.host} | ({"localhost", "127.0.0.1"} if settings.host in _LOCAL else set())
    ports = {settings.port, settings.noti_port}
    return sorted(
        {f"{own.scheme}://{own.netloc}"} | {f"{own.scheme}://{host}:{port}" for host in hosts for port in ports}
    )
