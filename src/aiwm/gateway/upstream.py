"""The gateway's client: requests to engines, streamed both ways, cancelled when the caller goes away.

Each engine has a pool of connections of its own, closed once the engine is no longer a target and nothing is under way:
an engine that is told to stop waits for its open connections, also for idle ones.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import aiohttp

from aiwm.kit.clock import Clock
from aiwm.protocol.errors import BadUpstream, TimedOut, Unavailable

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 600.0
_MAX_CONNECTIONS = 1000
_SWEEP_SECONDS = 0.2


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


@dataclass(slots=True)
class _Pool:
    session: aiohttp.ClientSession
    under_way: int = 0


class Upstream:
    """Pools of connections by engine; an async context. `base` of a request is an engine's URL without a path."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pools: dict[str, _Pool] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools.values():
            await pool.session.close()
        self._pools.clear()

    async def keep_only(self, targets: Callable[[], set[str]]) -> None:
        """Closes, soon after, what leads to an engine that `targets` no longer names; until cancelled."""
        while True:
            await self._clock.sleep(_SWEEP_SECONDS)
            idle = {base for base, pool in self._pools.items() if not pool.under_way}
            for base in idle - targets() if idle else ():
                await self._pools.pop(base).session.close()

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, base: str, path: str, headers: Mapping[str, str], body: bytes | AsyncIterator[bytes] | None
    ) -> AsyncIterator[Answer]:
        """One request; `Unavailable` when the engine cannot be dialled or hangs up before it answers."""
        pool = self._pools.get(base)
        if pool is None:
            pool = self._pools[base] = _Pool(_session())
        pool.under_way += 1
        try:
            response = await _answered(pool.session, method, f"{base}{path}", headers, body)
            try:
                yield _AiohttpAnswer(response)
            finally:
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()
        finally:
            pool.under_way -= 1


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS),
        connector=aiohttp.TCPConnector(limit=_MAX_CONNECTIONS),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _answered(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | AsyncIterator[bytes] | None,
) -> aiohttp.ClientResponse:
    try:
        return await session.request(method, url, headers=headers, data=body, allow_redirects=False)
    except TimeoutError as error:
        raise TimedOut("cannot answer: the engine was silent for too long") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise Unavailable("cannot answer: the engine cannot be reached", code="ENGINE_UNREACHABLE") from error
