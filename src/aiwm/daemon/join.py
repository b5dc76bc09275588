"""How this machine becomes a node: it shows a join token, once, and keeps who it is from then on.

A key is made and kept before the first request, and shown with every one: when the answer is lost, or this process
dies before it is written down, the same token and key are answered again, and no second node is made. A machine that
is a node already says so, and is let in as that one or not at all, because its engines belong to it.
"""

import asyncio
import hashlib
import json
import logging
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from pydantic import ValidationError

from aiwm.daemon.keeper import write_atomically
from aiwm.kit.backoff import delays
from aiwm.kit.clock import Clock
from aiwm.kit.settings import Settings, SettingsError
from aiwm.kit.trust import distrusted, trusting
from aiwm.protocol.errors import Problem
from aiwm.protocol.resources.join_tokens import NodeJoined

log = logging.getLogger(__name__)

_IDENTITY, _KEY = "identity.json", "join-key"
_FIRST_DELAY, _LONGEST_DELAY = 2.0, 60.0
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_MAKE_ANOTHER = "with: aiwm nodes join-token"


class JoinRefused(SettingsError):
    """The controller does not take this machine; asking again changes nothing."""


class _NotNow(Exception):
    """It may be answered later; `after` is when it may be asked again, in seconds."""

    def __init__(self, cause: str, after: float = 0.0) -> None:
        super().__init__(cause)
        self.after = after


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this machine is: its node, the token it got when it joined `url`, and the mark of the join token."""

    node_id: str
    token: str
    url: str
    joined_with: str


class Joiner:
    """One data folder's membership. `url` is the controller's, as the link uses it."""

    def __init__(self, settings: Settings, folder: Path, url: str, clock: Clock) -> None:
        self._settings, self._folder, self._url, self._clock = settings, folder, url, clock
        self._name = settings.node_name or socket.gethostname()
        self._mark = _mark_of(settings.join_token) if settings.join_token else None
        self._trust = trusting(settings.tls_ca)
        self._refused = False

    async def enter(self) -> str:
        """The token to dial in with; joins first where there is none, trying until the controller answers.

        Raises `SettingsError` with what to do.
        """
        if self._settings.node_token:
            if self._mark is not None:
                log.warning("AIWM_JOIN_TOKEN is not used: AIWM_NODE_TOKEN says who this node is")
            return self._settings.node_token
        identity = read_identity(self._folder)
        if identity is None:
            return (await self._join_first()).token
        self._check_place(identity)
        return identity.token

    async def again(self) -> str | None:
        """Another token, after the one of this node was refused: by a join token that was not used yet, if given."""
        identity = None if self._settings.node_token else read_identity(self._folder)
        if identity is None or self._refused or self._mark in (None, identity.joined_with):
            return None
        try:
            return (await self._join(identity.node_id)).token
        except _NotNow as error:
            log.warning("cannot join again: %s", error)
        except SettingsError as error:
            self._refused = True
            log.warning("%s; the join token is not tried again", error)
        return None

    def _check_place(self, identity: Identity) -> None:
        if identity.url != self._url and self._mark not in (None, identity.joined_with):
            raise JoinRefused(
                f"cannot join {self._url}: the data folder {self._settings.data_dir} belongs to node "
                f"{identity.node_id} of {identity.url}; give another --data-dir, or start without a join token "
                "where that controller has only changed its address"
            )

    async def _join_first(self) -> Identity:
        if self._mark is None:
            raise SettingsError(not_joined())
        if any(self._folder.glob("replicas/*/ledger.json")):
            raise JoinRefused(
                f"cannot join as a new node: the data folder {self._settings.data_dir} holds engines of an earlier "
                "one; give that one's token (AIWM_NODE_TOKEN), or another --data-dir"
            )
        pauses = delays(_FIRST_DELAY, _LONGEST_DELAY)
        while True:
            try:
                return await self._join(None)
            except _NotNow as error:
                pause = max(error.after, next(pauses))
                log.warning("cannot join %s yet: %s; next attempt in %.0f s", self._url, error, pause)
            await self._clock.sleep(pause)

    async def _join(self, node_id: str | None) -> Identity:
        key = await asyncio.to_thread(self._kept_key)
        body = {"joinToken": self._settings.join_token, "name": self._name, "joinKey": key}
        if node_id is not None:
            body["nodeId"] = node_id
        status, answer = await self._ask(body)
        if status != 201:
            raise self._refusal(status, answer)
        try:
            joined = NodeJoined.model_validate_json(answer)
        except ValidationError as error:
            raise JoinRefused(_strange(self._url, status)) from error
        identity = Identity(joined.node_id, joined.token, self._url, str(self._mark))
        await asyncio.to_thread(self._keep, identity)
        log.info("joined %s as node %s", self._url, joined.node_id)
        return identity

    async def _ask(self, body: dict[str, str]) -> tuple[int, bytes]:
        connector = aiohttp.TCPConnector(ssl=self._trust or True)
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector) as http,
                http.post(f"{self._url}/api/v1/nodes/join", json=body, allow_redirects=False) as answer,
            ):
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _NotNow(distrusted(error) or str(error) or type(error).__name__) from error

    def _refusal(self, status: int, answer: bytes) -> Exception:
        try:
            problem = Problem.model_validate_json(answer)
        except ValidationError:
            return _NotNow(f"it answered {status}") if status >= 500 else JoinRefused(_strange(self._url, status))
        if status >= 500 or status in (408, 429):
            details = json.loads(answer).get("details", {})
            return _NotNow(problem.detail, float(details.get("retryAfter", 0)))
        if problem.code == "NAME_TAKEN":
            other = f"{self._name}-{self._kept_key()[:4]}"
            return JoinRefused(
                f"cannot join: another node is called {self._name!r}; give this one another name, like --name {other}"
            )
        fields = "".join(f"; {each.field}: {each.message}" for each in problem.errors)
        more = f" {_MAKE_ANOTHER}" if problem.code.startswith("JOIN_TOKEN_") else ""
        return JoinRefused(f"{problem.detail}{more}{fields} ({problem.code})")

    def _kept_key(self) -> str:
        """The key that goes with this join token, on disk before it is shown to anybody."""
        kept = _read(self._folder / _KEY)
        if kept is not None and kept.get("mark") == self._mark and isinstance(kept.get("key"), str):
            return str(kept["key"])
        key = secrets.token_hex(32)
        self._write(_KEY, {"mark": self._mark, "key": key})
        return key

    def _keep(self, identity: Identity) -> None:
        self._write(
            _IDENTITY,
            {
                "nodeId": identity.node_id,
                "token": identity.token,
                "url": identity.url,
                "joinedWith": identity.joined_with,
            },
        )
        (self._folder / _KEY).unlink(missing_ok=True)

    def _write(self, name: str, content: dict[str, object]) -> None:
        try:
            write_atomically(self._folder / name, content)
        except OSError as error:
            raise SettingsError(
                f"cannot join: cannot keep {self._folder / name}: {error.strerror}; make room and start again"
            ) from error


def read_identity(folder: Path) -> Identity | None:
    """Who this machine has joined as. Raises `SettingsError` for what is there and cannot be read."""
    path = folder / _IDENTITY
    if not path.exists():
        return None
    kept = _read(path) or {}
    fields = [kept.get(name) for name in ("nodeId", "token", "url", "joinedWith")]
    texts = [each for each in fields if isinstance(each, str)]
    if len(texts) != len(fields):
        raise SettingsError(
            f"cannot read who this node is from {path}; give its token (AIWM_NODE_TOKEN), or take the file away to "
            "join anew"
        )
    return Identity(*texts)


def not_joined() -> str:
    """What to do on a machine that has nothing to show."""
    return (
        "AIWM_NODE_TOKEN is not set, nor AIWM_JOIN_TOKEN, and this machine has not joined yet; "
        f"make a join token {_MAKE_ANOTHER}"
    )


def _strange(url: str, status: int) -> str:
    return f"cannot join {url}: it answered {status} in a way this daemon does not know; is an AIWM controller there?"


def _read(path: Path) -> dict[str, object] | None:
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) else None


def _mark_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
