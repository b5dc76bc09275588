"""One authenticated HTTP connection to AIWM: tokens, one refresh when they expire, correlation ids and typed errors."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from pydantic import BaseModel, ValidationError

from aiwm.kit.context import correlation_id as current_correlation_id
from aiwm.kit.settings import SettingsError
from aiwm.kit.trust import trusting
from aiwm.protocol.errors import BadUpstream, Invalid, Unauthenticated
from aiwm.protocol.resources.access import TokenPair
from aiwm.sdk.failures import error_of, reaching

M = TypeVar("M", bound=BaseModel)
Body = Mapping[str, object] | BaseModel | None
OnTokens = Callable[[TokenPair], Awaitable[None] | None]
SharedTokens = Callable[[], AbstractAsyncContextManager[tuple[str, str] | None]]
"""Entered around a renewal by programs that share tokens, one at a time: a refresh token is good for one use. It
yields the access and refresh token that are kept now."""

_CONNECT_SECONDS = 10.0
_TOTAL_SECONDS = 60.0


def checked_url(url: str) -> str:
    """`url` without a trailing slash; raises `Invalid` when it is no HTTP URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(
            f"cannot use {url!r}: give the controller's address, like http://127.0.0.1:3003", code="URL_INVALID"
        )
    return url.rstrip("/")


def trust_of(ca_file: str | None) -> ssl.SSLContext | None:
    """What servers are judged by: the authorities in `ca_file` (`AIWM_TLS_CA` when None) besides the system's.

    None: the system's alone. Raises `Invalid` for a file that cannot be used.
    """
    try:
        return trusting(os.environ.get("AIWM_TLS_CA", "") if ca_file is None else ca_file)
    except SettingsError as error:
        raise Invalid(str(error), code="CA_INVALID") from error


def wire_body(body: Body) -> object:
    """Params as the JSON that is sent: only what was given."""
    if isinstance(body, BaseModel):
        return body.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return body


def read_as(kind: type[M], payload: object) -> M:
    """`payload` as `kind`; raises `BadUpstream` when it does not fit, as between versions."""
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        raise BadUpstream(
            f"cannot read the answer as {kind.__name__}: {error.error_count()} fields do not fit; "
            "use the same version of client and controller"
        ) from error


class Transport:
    """REST with credentials. Open it with `async with`."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        refresh_token: str | None = None,
        correlation_id: str | None = None,
        on_tokens: OnTokens | None = None,
        shared: SharedTokens = nullcontext,
        ca_file: str | None = None,
    ) -> None:
        self.trust = trust_of(ca_file)
        self.url = checked_url(url)
        self.token, self.refresh_token = token, refresh_token
        self.correlation_id = correlation_id
        self._on_tokens, self._shared = on_tokens, shared
        self._refreshing = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Makes the connection pool; nothing is sent yet."""
        timeout = aiohttp.ClientTimeout(total=_TOTAL_SECONDS, sock_connect=_CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=self.trust or True))

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open pool; it carries no credentials by itself."""
        if self._session is None:
            raise RuntimeError("the client is not open: use it inside `async with Client(...) as client:`")
        return self._session

    async def keep(self, tokens: TokenPair) -> None:
        """Uses `tokens` from now on and tells whoever stores them."""
        self.token, self.refresh_token = tokens.access_token, tokens.refresh_token
        if self._on_tokens is not None and (told := self._on_tokens(tokens)) is not None:
            await told

    async def refresh(self, expired: str | None) -> None:
        """New tokens in place of `expired`; once, however many requests found it expired."""
        async with self._refreshing, self._shared() as kept:
            if self.token != expired:
                return
            if kept is not None and kept[0] != expired:
                self.token, self.refresh_token = kept
                return
            if self.refresh_token is None:
                raise Unauthenticated("cannot go on: the token has expired; sign in again", code="TOKEN_EXPIRED")
            url = f"{self.url}/api/v1/auth/refresh"
            with reaching(self.url):
                async with self.session.post(
                    url, json={"refreshToken": self.refresh_token}, headers=self._headers(signed=False)
                ) as answer:
                    await _check(answer)
                    tokens = read_as(TokenPair, await answer.json(content_type=None))
            await self.keep(tokens)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Body = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        base: str | None = None,
    ) -> object:
        """The JSON that `method path` answers, None for an empty answer. `base` is another service's URL."""
        async with self.answer(method, path, json=json, params=params, headers=headers, base=base) as answer:
            body = await answer.read()
        return _json(body, f"{method} {answer.url}") if body else None

    @asynccontextmanager
    async def answer(
        self,
        method: str,
        path: str,
        *,
        json: Body = None,
        data: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        base: str | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
        check: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The open answer to a signed request, sent again once when the token had expired. `check` raises errors."""
        url = urljoin(f"{base or self.url}/", path.lstrip("/")) if "://" not in path else path
        payload = wire_body(json)
        with reaching(base or self.url):
            for last in (False, True):
                token = self.token
                answer = await self.session.request(
                    method,
                    url,
                    json=payload,
                    data=data,
                    params=params,
                    headers=self._headers(headers),
                    timeout=timeout or self.session.timeout,
                    allow_redirects=False,
                )
                if last or answer.status != 401 or self.refresh_token is None or not await _expired(answer):
                    break
                answer.release()
                await self.refresh(token)
            try:
                if check:
                    await _check(answer)
                yield answer
            finally:
                answer.close() if not answer.content.at_eof() else answer.release()

    def _headers(self, more: Mapping[str, str] | None = None, *, signed: bool = True) -> dict[str, str]:
        headers = {"Accept": "application/json", **(more or {})}
        if signed and self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if (correlation := self.correlation_id or current_correlation_id()) is not None:
            headers["X-Correlation-Id"] = correlation
        return headers


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= 300:
        asked = f"{answer.method} {answer.url}"
        raise error_of(answer.status, await answer.read(), answer.headers.get("X-Correlation-Id"), asked)


async def _expired(answer: aiohttp.ClientResponse) -> bool:
    return error_of(401, await answer.read(), None, "").code == "TOKEN_EXPIRED"


def _json(body: bytes, asked: str) -> object:
    try:
        return json.loads(body)
    except ValueError as error:
        raise BadUpstream(f"cannot {asked}: the answer is not JSON; is that an AIWM service?") from error
