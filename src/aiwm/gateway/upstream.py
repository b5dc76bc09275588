"""The gateway's client: requests to engines, streamed both ways, cancelled when the caller goes away."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import aiohttp

from aiwm.protocol.errors import BadUpstream, TimedOut, Unavailable

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 600.0
_MAX_CONNECTIONS = 1000


class Answer(Protocol):
    """An engine's answer: its head, and its body as it comes."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> list[tuple[str, str]]: ...

    def body(self) -> AsyncIterator[bytes]: ...


@dataclass(slots=True)
class _AiohttpAnswer:
    response: aiohttp.ClientResponse

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> list[tuple[str, str]]:
        return list(self.response.headers.items())

    async def body(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self.response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise BadUpstream(f"cannot go on: the engine broke off ({type(error).__name__})") from error


class Upstream:
    """A pool of connections to engines; an async context."""

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            connector=aiohttp.TCPConnector(limit=_MAX_CONNECTIONS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | AsyncIterator[bytes] | None
    ) -> AsyncIterator[Answer]:
        """One request; `Unavailable` when the engine cannot be dialled or hangs up before it answers."""
        try:
            response = await self._session.request(method, url, headers=headers, data=body, allow_redirects=False)
        except TimeoutError as error:
            raise TimedOut("cannot answer: the engine was silent for too long") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Unavailable("cannot answer: the engine cannot be reached", code="ENGINE_UNREACHABLE") from error
        try:
            yield _AiohttpAnswer(response)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()
