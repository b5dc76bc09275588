"""Tickets: what a URL of the local object store allows its holder, signed, so that it needs no credentials of ours."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from aiwm.infra.key_ring import FixedKeys
from aiwm.kit.clock import Clock
from aiwm.protocol.errors import Denied

Method = Literal["GET", "PUT"]
_MAX_LENGTH = 8192


@dataclass(frozen=True, slots=True)
class Ticket:
    """One allowed request. `expires` is in seconds since 1970; `upload_id` and `number` are those of a part to PUT."""

    method: Method
    key: str
    expires: int
    upload_id: str | None = None
    number: int | None = None


class BlobTickets:
    """Signs and verifies tickets with a ring of keys: the first signs, all verify."""

    def __init__(self, keys: Sequence[bytes] | FixedKeys, clock: Clock) -> None:
        self._ring = keys if isinstance(keys, FixedKeys) else FixedKeys(tuple(keys))
        self._seen: tuple[bytes, ...] = ()
        self._derived: list[bytes] = []
        self._clock = clock

    def _current(self, *, now: bool = False) -> list[bytes]:
        keys = self._ring.current(now=now)
        if keys is not self._seen:
            self._derived = [hmac.digest(key, b"aiwm blob ticket", hashlib.sha256) for key in keys]
            self._seen = keys
        return self._derived

    def _signed_here(self, text: bytes, signature: bytes, *, now: bool = False) -> bool:
        keys = self._current(now=now)
        return any(hmac.compare_digest(hmac.digest(key, text, hashlib.sha256), signature) for key in keys)

    def sign(
        self, method: Method, key: str, *, expires: int, upload_id: str | None = None, number: int | None = None
    ) -> str:
        """A token, safe in a URL's path, that allows the request for `expires` seconds."""
        until = int(self._clock.now().timestamp()) + expires
        ticket = Ticket(method, key, until, upload_id, number)
        text = json.dumps(asdict(ticket), separators=(",", ":")).encode()
        return f"{_encode(text)}.{_encode(hmac.digest(self._current()[0], text, hashlib.sha256))}"

    def verify(self, token: str) -> Ticket:
        """What the token allows. Raises `Denied`: `TICKET_INVALID` when it is not ours, `TICKET_EXPIRED`."""
        text, signature = _parts(token)
        if not self._signed_here(text, signature) and not self._signed_here(text, signature, now=True):
            raise _refused()
        ticket = Ticket(**json.loads(text))
        if ticket.expires <= self._clock.now().timestamp():
            raise Denied("cannot use this URL: it has expired; ask for a new one", code="TICKET_EXPIRED")
        return ticket


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _parts(token: str) -> tuple[bytes, bytes]:
    text, dot, signature = token.partition(".")
    if not dot or len(token) > _MAX_LENGTH or not token.isascii():
        raise _refused()
    try:
        return _decode(text), _decode(signature)
    except (binascii.Error, ValueError) as error:
        raise _refused() from error


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _refused() -> Denied:
    return Denied("cannot use this URL: its ticket is not valid; ask for a new one", code="TICKET_INVALID")
