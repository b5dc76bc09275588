"""The error table: every failure as RFC 9457 `application/problem+json`, with a code and the correlation id."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from aiwm.http.paths import loggable
from aiwm.kit.context import accept_correlation_id, correlation_id
from aiwm.protocol.errors import (
    AiwmError,
    Denied,
    FieldError,
    Invalid,
    Malformed,
    NotFound,
    Problem,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
_PLACES = ("body", "query", "path", "header", "cookie")
_BY_STATUS: dict[int, type[AiwmError]] = {
    error.status: error for error in (Malformed, Unauthenticated, Denied, NotFound, TooLarge, Invalid, Unavailable)
}


class MethodNotAllowed(AiwmError):
    status, title, default_code = 405, "Method not allowed", "METHOD_NOT_ALLOWED"


def problem(error: AiwmError, path: str) -> Response:
    """`error` as an answer to a request for `path`."""
    body = Problem(
        type=f"urn:aiwm:problem:{error.code.lower().replace('_', '-')}",
        title=error.title,
        status=error.status,
        detail=error.message,
        instance=loggable(path),
        code=error.code,
        correlation_id=accept_correlation_id(correlation_id()),
        errors=error.fields if isinstance(error, Invalid) else [],
    ).to_wire()
    if error.details:
        body["details"] = error.details
    return _answer(body, error)


def _answer(body: Mapping[str, object], error: AiwmError) -> Response:
    headers = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        headers["Retry-After"] = str(error.details.get("retryAfter", 1))
    return Response(json.dumps(body), status_code=error.status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Registers the table with `app`. What it does not know is a bug, and the edge answers that."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, AiwmError)  # noqa: S101 - registered for this type alone
        return problem(error, request.url.path)

    async def unfit(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type alone
        return problem(invalid(error.errors(), request.headers.get("content-type", "")), request.url.path)

    async def routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type alone
        answer = problem(_from_status(error, request), request.url.path)
        answer.headers.update(error.headers or {})
        return answer

    app.add_exception_handler(AiwmError, known)
    app.add_exception_handler(RequestValidationError, unfit)
    app.add_exception_handler(HTTPException, routing)


def invalid(errors: Sequence[Any], content_type: str = "application/json") -> AiwmError:
    """What a validator found, as one error naming every field: `a.b[0]`."""
    if any(each["type"] == "json_invalid" for each in errors):
        return Malformed("cannot read the request: its body is not valid JSON")
    if any(tuple(each["loc"]) == ("body",) for each in errors) and "json" not in content_type.lower():
        return Malformed("cannot read the request: send a JSON body with Content-Type: application/json")
    fields = [
        FieldError(field=field_path(each["loc"]), message=str(each["msg"]), code=str(each["type"]).upper())
        for each in errors
    ]
    names = ", ".join(each.field for each in fields[:5]) + (", …" if len(fields) > 5 else "")
    return Invalid(f"cannot accept the request: {names} {'does' if len(fields) == 1 else 'do'} not fit", fields=fields)


def field_path(location: Sequence[int | str]) -> str:
    """A validator's location as people write it; a whole body is `body`."""
    steps = location[1:] if len(location) > 1 and location[0] in _PLACES else location
    path = ""
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _from_status(error: HTTPException, request: Request) -> AiwmError:
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowed(f"cannot {request.method} {request.url.path}: this path does not take that method")
    if error.status_code == HTTPStatus.NOT_FOUND:
        return NotFound(f"cannot find {request.url.path}: there is no such path", code="ROUTE_NOT_FOUND")
    return _BY_STATUS.get(error.status_code, AiwmError)(f"cannot answer: {error.detail}")
