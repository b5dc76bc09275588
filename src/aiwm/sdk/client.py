"""`Client`: everything a program can ask of AIWM, one attribute for each noun."""

from collections.abc import Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from aiwm.protocol.errors import Unauthenticated
from aiwm.protocol.resources.access import LoginRequest, Me, TokenPair
from aiwm.sdk.deployments import Deployments
from aiwm.sdk.inference import Inference
from aiwm.sdk.join_tokens import JoinTokens
from aiwm.sdk.live import Live
from aiwm.sdk.models import Models
from aiwm.sdk.nodes import Nodes
from aiwm.sdk.notifications import Notifications
from aiwm.sdk.transport import Body, OnTokens, SharedTokens, Transport, checked_url, read_as

NOTI_PORT = 3002


def default_noti_url(url: str) -> str:
    """NOTI as it is found beside a controller: same scheme and host, port 3002."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return urlunsplit((parts.scheme, f"{host}:{NOTI_PORT}", "", "", ""))


class Client:
    """AIWM over HTTP: `async with Client("http://127.0.0.1:3003") as client: ...`

    `token` is an access token or API key; `refresh_token` renews it once it has expired, and `on_tokens` is told of
    every new pair; programs that share one pair say by `shared` how they take turns.
    `ca_file` (`AIWM_TLS_CA` when None) holds authorities to trust besides the system's.
    `correlation_id` goes along with every request, else the current one of `aiwm.kit.context`, if any.
    Every method raises errors of `aiwm.protocol.errors`, whose `details` hold the `correlationId`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        refresh_token: str | None = None,
        noti_url: str | None = None,
        correlation_id: str | None = None,
        on_tokens: OnTokens | None = None,
        shared: SharedTokens = nullcontext,
        ca_file: str | None = None,
    ) -> None:
        self._transport = Transport(
            url,
            token=token,
            refresh_token=refresh_token,
            correlation_id=correlation_id,
            on_tokens=on_tokens,
            shared=shared,
            ca_file=ca_file,
        )
        self.url = self._transport.url
        self.noti_url = checked_url(noti_url or default_noti_url(self.url))
        self.nodes = Nodes(self._transport)
        self.join_tokens = JoinTokens(self._transport)
        self.models = Models(self._transport)
        self.deployments = Deployments(self._transport)
        self.inference = Inference(self._transport)
        self.notifications = Notifications(self._transport, self.noti_url)

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    async def login(self, username: str, password: str) -> TokenPair:
        """Signs in; later requests use and renew the tokens. Raises `Unauthenticated`."""
        self._transport.token = self._transport.refresh_token = None
        params = LoginRequest(username=username, password=password)
        tokens = read_as(TokenPair, await self._transport.request("POST", "/api/v1/auth/login", json=params))
        await self._transport.keep(tokens)
        return tokens

    async def logout(self) -> None:
        """Ends the session on the server."""
        await self._transport.request("POST", "/api/v1/auth/logout")
        self._transport.token = self._transport.refresh_token = None

    async def me(self) -> Me:
        """Who the caller is."""
        return read_as(Me, await self._transport.request("GET", "/api/v1/auth/me"))

    def live(self) -> Live:
        """The caller's live events; enter it with `async with`. Raises `Unauthenticated` when not signed in."""
        if self._transport.token is None:
            raise Unauthenticated("cannot listen: sign in first")
        return Live(self.noti_url, self._transport.token, refresh=self._renewed, trust=self._transport.trust)

    async def request(
        self, method: str, path: str, *, json: Body = None, params: Mapping[str, str] | None = None, noti: bool = False
    ) -> object:
        """Any route as plain JSON, signed; of NOTI with `noti`. For what has no method here."""
        base = self.noti_url if noti else None
        return await self._transport.request(method, path, json=json, params=params, base=base)

    async def _renewed(self) -> str:
        await self._transport.refresh(self._transport.token)
        if self._transport.token is None:
            raise Unauthenticated("cannot listen: signed out meanwhile")
        return self._transport.token
