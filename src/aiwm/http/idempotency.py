"""`Idempotency-Key` on POST under `/api/v1`: what was done once is not done again, its answer is given again.

A claim is stored before the work begins, so of two requests at once one works and the other is told to wait. Only
successes are kept; after a failure the key is free. A claim whose process died is taken over after a minute.
"""

import hashlib
import json
from datetime import datetime, timedelta

from fastapi import Depends, Request, Response
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiwm.http.body import MAX_BODY_BYTES, read_body, replay
from aiwm.http.gate import API, Gate, bearer
from aiwm.http.paths import takes_raw_body
from aiwm.http.problems import problem
from aiwm.infra.store.port import Index, Record, Store, Where
from aiwm.kit.clock import Clock
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import AiwmError, Conflict, FieldError, Invalid

COLLECTION = "idempotency"
HEADER = "Idempotency-Key"
_KEPT = timedelta(hours=24)
_LEASE = timedelta(minutes=1)
_MAX_KEY = 255
_MAX_KEPT_BYTES = 262_144
_KEPT_HEADERS = ("content-type", "location", "etag")


async def _secret(request: Request) -> None:
    request.state.answer_is_secret = True


ANSWERS_SECRET = Depends(_secret)
"""On a route whose answer holds a secret: it is never stored, and a repeated request is told so."""


class IdempotencyKeys:
    """The claims and answers in the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def prepare(self) -> None:
        """Makes the index, and forgets what has expired."""
        await self._store.ensure_index(Index(COLLECTION, ("expiresAt",)))
        await self.forget_expired()

    async def forget_expired(self) -> int:
        """Removes what is older than a day; how many."""
        return await self._store.delete_range(COLLECTION, (Where("expiresAt", "lt", self._clock.now()),))

    async def claim(self, record_id: str, fingerprint: str) -> Record:
        """The record of this request: with `status` when it was answered before, else it is the caller's to do.

        `Conflict`: `IDEMPOTENCY_KEY_REUSED` for another body, `IDEMPOTENCY_IN_PROGRESS` while another does the same.
        """
        now = self._clock.now()
        fresh: Record = {
            "id": record_id,
            "claimId": new_id("claim"),
            "fingerprint": fingerprint,
            "claimedAt": now,
            "expiresAt": now + _KEPT,
        }
        try:
            await self._store.insert(COLLECTION, fresh)
        except Conflict:
            return await self._join(fresh)
        return {**fresh, "version": 1}

    async def _join(self, fresh: Record) -> Record:
        found = await self._store.get(COLLECTION, str(fresh["id"]))
        if found is None:
            raise _in_progress()
        now = self._clock.now()
        version = int(str(found["version"]))
        expired = _moment(found, "expiresAt") <= now.timestamp()
        if found["fingerprint"] != fresh["fingerprint"] and not expired:
            raise Conflict(
                f"cannot accept the request: this {HEADER} was used for another body; use a new key",
                code="IDEMPOTENCY_KEY_REUSED",
            )
        if "status" in found and not expired:
            return found
        abandoned = _moment(found, "claimedAt") + _LEASE.total_seconds() <= now.timestamp()
        if not abandoned or not await self._store.replace(COLLECTION, fresh, version=version):
            raise _in_progress()
        return {**fresh, "version": version + 1}

    async def answered(self, claim: Record, answer: Record) -> None:
        """Keeps the answer, unless somebody took the claim over."""
        version = int(str(claim["version"]))
        await self._store.replace(COLLECTION, {**claim, **answer}, version=version)

    async def release(self, claim: Record) -> None:
        """The work failed: the key may be used again, unless somebody took the claim over."""
        mine = (Where("id", "eq", str(claim["id"])), Where("claimId", "eq", str(claim["claimId"])))
        await self._store.delete_range(COLLECTION, mine)


class Idempotency:
    """The middleware. `gate` says whose key it is; a request it does not know is passed on to be refused."""

    def __init__(self, app: ASGIApp, keys: IdempotencyKeys, gate: Gate) -> None:
        self._app, self._keys, self._gate = app, keys, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        try:
            await self._once(key, scope, receive, send)
        except AiwmError as error:
            await problem(error, scope["path"])(scope, receive, send)

    async def _once(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        who = await self._gate.identity(bearer(HTTPConnection(scope)))
        _check(key)
        body = await read_body(receive, MAX_BODY_BYTES)
        record_id = _digest(who, scope["path"], key)
        # With the key, which is nowhere stored: a body may hold a password, and its hash alone could be guessed at.
        fingerprint = _digest(key, scope.get("query_string", b"").decode("latin-1"), body.hex())
        claim = await self._keys.claim(record_id, fingerprint)
        if "status" in claim:
            await _again(claim)(scope, receive, send)
            return
        await self._work(claim, scope, replay(body, receive), send)

    async def _work(self, claim: Record, scope: Scope, receive: Receive, send: Send) -> None:
        """Collects the answer while it is sent, and sends its end only once it is kept."""
        recorded = _Recorded()
        state = scope.setdefault("state", {})
        done = False

        async def sending(message: Message) -> None:
            nonlocal done
            recorded.add(message)
            if recorded.complete and not done:
                done = True
                await self._settle(claim, recorded, secret=bool(state.get("answer_is_secret")))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            if not done:
                await self._keys.release(claim)

    async def _settle(self, claim: Record, recorded: "_Recorded", *, secret: bool) -> None:
        if recorded.status >= 400:
            await self._keys.release(claim)
        elif secret or len(recorded.body) > _MAX_KEPT_BYTES:
            await self._keys.answered(claim, {"status": recorded.status})
        else:
            headers = {name: recorded.headers[name] for name in _KEPT_HEADERS if name in recorded.headers}
            body = recorded.body.decode()
            await self._keys.answered(claim, {"status": recorded.status, "headers": headers, "body": body})


class _Recorded:
    """An answer as it goes by."""

    def __init__(self) -> None:
        self.status, self.headers, self.body, self.complete = 0, Headers(), bytearray(), False

    def add(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], Headers(raw=list(message["headers"]))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)


def _again(claim: Record) -> Response:
    if "body" not in claim:
        raise Conflict(
            f"cannot give the answer again: the request with this {HEADER} was carried out, "
            "and its answer was not kept because it held a secret or was too large",
            code="IDEMPOTENCY_ANSWER_NOT_KEPT",
        )
    headers = claim["headers"]
    assert isinstance(headers, dict)  # noqa: S101 - as it was stored
    return Response(str(claim["body"]), int(str(claim["status"])), {**headers, "Idempotency-Replayed": "true"})


def _key(scope: Scope) -> str | None:
    if scope["type"] != "http" or scope["method"] != "POST" or takes_raw_body(scope["path"]):
        return None
    headers = Headers(scope=scope)
    if not scope["path"].startswith(API + "/") or "authorization" not in headers:
        return None
    return headers.get(HEADER)


def _check(key: str) -> None:
    if not (1 <= len(key) <= _MAX_KEY and key.isascii() and key.isprintable()):
        message = f"must hold 1 to {_MAX_KEY} printable characters"
        field = FieldError(field=HEADER, message=message, code="IDEMPOTENCY_KEY_INVALID")
        raise Invalid(f"cannot accept the request: {HEADER} {message}", fields=[field])


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _moment(record: Record, name: str) -> float:
    moment = record[name]
    assert isinstance(moment, datetime)  # noqa: S101 - as it was stored
    return moment.timestamp()


def _in_progress() -> Conflict:
    return Conflict(
        f"cannot answer yet: a request with this {HEADER} is being carried out; ask again in a second",
        code="IDEMPOTENCY_IN_PROGRESS",
    )
