"""The outermost layer of every request: correlation id, access log, security headers, and the answer to a bug."""

import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiwm.http.address import address_of
from aiwm.http.paths import loggable
from aiwm.http.problems import problem
from aiwm.kit.acting import Act, acting
from aiwm.kit.context import accept_correlation_id, correlated, correlation_id
from aiwm.protocol.errors import AiwmError

log = logging.getLogger(__name__)

CORRELATION_HEADER = "X-Correlation-Id"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

Observe = Callable[[Scope, int, float], None]


class Edge:
    """Wraps an application; `observe(scope, status, seconds)` is called once for each request."""

    def __init__(self, app: ASGIApp, observe: Observe) -> None:
        self._app, self._observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get(CORRELATION_HEADER)
        with correlated(accept_correlation_id(offered)), acting(Act(address_of(scope))):
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _complete(MutableHeaders(scope=message))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            log.exception("request failed", extra={"method": scope["method"], "path": loggable(scope["path"])})
            if status:
                raise
            await problem(_bug(), scope["path"])(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            self._observe(scope, status, seconds)
            fields = {"method": scope["method"], "path": loggable(scope["path"]), "status": status}
            log.info("request", extra={**fields, "ms": round(seconds * 1000, 1)})


def _complete(headers: MutableHeaders) -> None:
    headers[CORRELATION_HEADER] = accept_correlation_id(correlation_id())
    secure(headers)


def secure(headers: MutableHeaders) -> None:
    """Adds the security headers that an answer does not set itself."""
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)


def _bug() -> AiwmError:
    return AiwmError("cannot answer: something went wrong here; the log has it under this correlation id")
