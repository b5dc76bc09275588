"""One inference request, from the caller to an engine and back: credentials stay here, streams pass unbuffered."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from aiwm.deployments.records import Wish
from aiwm.gateway.directory import Directory, Target
from aiwm.gateway.upstream import Answer, Upstream
from aiwm.gateway.usage import UsageMeter
from aiwm.protocol.errors import AiwmError

_KEPT_BODY = 8 * 2**20
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"})
_NOT_PASSED_ON = _HOP_BY_HOP | {"transfer-encoding", "upgrade", "host"}
_OURS = frozenset({"authorization", "cookie", "x-correlation-id", "idempotency-key", "content-length"})
_IDEMPOTENT = frozenset({"GET", "HEAD"})


class Relay:
    """Chooses a replica, sends the request, and tries another one while nothing has been answered yet."""

    def __init__(self, directory: Directory, upstream: Upstream, usage: UsageMeter) -> None:
        self._directory, self._upstream, self._usage = directory, upstream, usage

    async def send(self, request: Request, wish: Wish, path: str, *, inference: bool) -> Response:
        """`path` is the engine's; `inference` marks requests that count and may be tried on another replica."""
        targets = self._directory.targets(wish)
        began = time.perf_counter()
        body, whole = await _body(request)
        retriable = whole and (inference or request.method in _IDEMPOTENT or "idempotency-key" in request.headers)
        headers = _request_headers(request)
        query = f"?{request.url.query}" if request.url.query else ""
        stack = AsyncExitStack()
        try:
            answer = await self._first_answer(
                stack, targets if retriable else targets[:1], request.method, f"/{path}{query}", headers, body
            )
        except BaseException:
            await stack.aclose()
            raise

        async def relayed() -> AsyncIterator[bytes]:
            async with stack:
                async for chunk in answer.body():
                    yield chunk
                if inference and answer.status < 300:
                    self._usage.count(wish.id, (time.perf_counter() - began) * 1000)

        response = StreamingResponse(relayed(), status_code=answer.status)
        response.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in answer.headers
            if name.lower() not in _NOT_PASSED_ON
        ]
        return response

    async def _first_answer(
        self,
        stack: AsyncExitStack,
        targets: list[Target],
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | AsyncIterator[bytes] | None,
    ) -> Answer:
        last: AiwmError | None = None
        for target in targets:
            try:
                return await stack.enter_async_context(self._upstream.request(method, target.url, path, headers, body))
            except AiwmError as error:
                last = error
        assert last is not None  # noqa: S101 - there is at least one target
        raise last


async def _body(request: Request) -> tuple[bytes | AsyncIterator[bytes] | None, bool]:
    """The body, whole up to 8 MiB so that it can be sent again, else as a stream; and whether it is whole."""
    chunks: list[bytes] = []
    size = 0
    stream = request.stream()
    async for chunk in stream:
        chunks.append(chunk)
        size += len(chunk)
        if size > _KEPT_BODY:
            return _chained(chunks, stream), False
    return b"".join(chunks) or None, True


async def _chained(begin: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in begin:
        yield chunk
    async for chunk in rest:
        yield chunk


def _request_headers(request: Request) -> dict[str, str]:
    passed = {
        name: value
        for name, value in request.headers.items()
        if name not in _NOT_PASSED_ON and name not in _OURS and not name.startswith("x-forwarded-")
    }
    # Without it the client would ask for gzip by itself, and a caller that did not would get an answer it cannot read.
    passed.setdefault("accept-encoding", "identity")
    return passed
