"""Inference over HTTP: everything to an engine as it is, and KServe v2 by deployment name."""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.gateway.directory import Directory
from aiwm.gateway.relay import Relay
from aiwm.protocol.errors import AiwmError, NotFound

RETRY_AFTER_SECONDS = 5
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class InferenceRoute(APIRoute):
    """Answers our own errors in the shape of the API the path speaks."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def shaped(request: Request) -> Response:
            try:
                return await inner(request)
            except AiwmError as error:
                answer = shaped_error(error, _engine_path(request))
                if answer is None:
                    raise
                return answer

        return shaped


def shaped_error(error: AiwmError, engine_path: str) -> Response | None:
    """The error as KServe (`v2…`) or OpenAI (`v1…`) clients expect it; None for any other path."""
    if engine_path.startswith("v2"):
        body: dict[str, object] = {"error": error.message, "code": error.code}
    elif engine_path.startswith("v1"):
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        body = {"error": {"message": error.message, "type": kind, "code": error.code, "param": None}}
    else:
        return None
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if error.status == 503 else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(json.dumps(body), status_code=error.status, media_type="application/json", headers=headers)


def gateway_routers(directory: Directory, relay: Relay, guard: Guard) -> tuple[APIRouter, APIRouter]:
    """The router below `/api/v1`, and the one at the root."""
    raw = APIRouter(prefix="/deployments", tags=["inference"], route_class=InferenceRoute)
    named = APIRouter(prefix="/v2", tags=["inference"], route_class=InferenceRoute)
    user = guard.needs("inference.use")

    @raw.api_route("/{deployment_id}/inference/{path:path}", methods=_METHODS, include_in_schema=False)
    async def raw_inference(
        who: Annotated[Principal, user], deployment_id: str, path: str, request: Request
    ) -> Response:
        wish = directory.by_id(who, deployment_id)
        return await relay.send(request, wish, path, inference=_infers(request, path))

    @named.get("/health/live", dependencies=[user])
    @named.get("/health/ready", dependencies=[user])
    async def health() -> Response:
        return Response(status_code=200)

    @named.get("", dependencies=[user])
    async def metadata() -> dict[str, object]:
        return {"name": "aiwm", "version": "2", "extensions": []}

    @named.get("/models/{path:path}")
    @named.head("/models/{path:path}")
    @named.post("/models/{path:path}")
    async def by_name(who: Annotated[Principal, user], path: str, request: Request) -> Response:
        wish, rest = directory.by_name(who, path)
        if rest and rest.split("/")[0] not in ("infer", "ready", "config", "stats", "versions", "generate"):
            raise NotFound(f"cannot find {rest!r}: not a path of KServe v2", code="PATH_NOT_FOUND")
        engine_path = f"v2/models/{directory.engine_name(wish)}" + (f"/{rest}" if rest else "")
        return await relay.send(request, wish, engine_path, inference=_infers(request, engine_path))

    return raw, named


def _engine_path(request: Request) -> str:
    path = request.url.path.lstrip("/")
    return path.partition("/inference/")[2] if path.startswith("api/") else path


def _infers(request: Request, path: str) -> bool:
    return request.method == "POST" and path.rstrip("/").endswith(
        ("/infer", "/generate", "/generate_stream", "/completions", "/embeddings")
    )
