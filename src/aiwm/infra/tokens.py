"""Signed tokens: who a bearer is, of which kind, until when. One key ring for all services of an installation.

The kind is the token's audience, so a node's token never stands in for a user's; a refresh token is of another use
and never opens a door. Tokens are JWTs, HS256 only; what a token says about algorithm or keys is never believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from joserfc.jws import extract_compact

from aiwm.infra.key_ring import FixedKeys, key_id
from aiwm.kit.clock import Clock
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import Unauthenticated
from aiwm.protocol.states import PrincipalKind

_ALGORITHM = "HS256"
_ISSUER = "aiwm"
_HEADER_FIELDS = frozenset({"alg", "typ", "kid"})
_MAX_LENGTH = 8192

Use = Literal["access", "refresh"]


@dataclass(frozen=True)
class Claims:
    """What a verified token says. `values` are whatever its issuer put in."""

    kind: PrincipalKind
    subject: str
    issued_at: datetime
    expires_at: datetime
    values: Mapping[str, object] = field(default_factory=dict)


class Tokens:
    """Issues with the first of `keys`, verifies with all of them; a ring may change meanwhile."""

    def __init__(self, keys: tuple[bytes, ...] | FixedKeys, clock: Clock) -> None:
        self._ring = keys if isinstance(keys, FixedKeys) else FixedKeys(keys)
        self._clock = clock
        self._seen: tuple[bytes, ...] = ()
        self._keys: dict[str, OctKey] = {}

    def _current(self, *, now: bool = False) -> dict[str, OctKey]:
        """The ring's keys by id, the signing one first."""
        keys = self._ring.current(now=now)
        if keys is not self._seen:
            self._keys = {key_id(key): OctKey.import_key(key) for key in keys}
            self._seen = keys
        return self._keys

    def _verifying(self, name: str) -> OctKey | None:
        """The key of that id. One we do not know yet may be what another process signs with since a moment ago."""
        return self._current().get(name) or self._current(now=True).get(name)

    def issue(
        self,
        kind: PrincipalKind,
        subject: str,
        *,
        expires_in: int,
        values: Mapping[str, object] = {},
        use: Use = "access",
        at: datetime | None = None,
    ) -> tuple[str, datetime]:
        """A token for `expires_in` seconds from `at` (now, if not given), and when it ends (whole seconds).

        Its `iat` has milliseconds, so that what was issued just before a revocation is told from what came after.
        """
        issued_at = (at or self._clock.now()).timestamp()
        now = int(issued_at)
        claims = {
            "iss": _ISSUER,
            "aud": _audience(kind),
            "sub": subject,
            "iat": issued_at,
            "exp": now + expires_in,
            "jti": new_id("token"),
            "use": use,
            "values": dict(values),
        }
        signing, key = next(iter(self._current().items()))
        token = jwt.encode({"alg": _ALGORITHM, "kid": signing}, claims, key, algorithms=[_ALGORITHM])
        return token, datetime.fromtimestamp(now + expires_in, UTC)

    def verify(self, token: str | None, *kinds: PrincipalKind) -> Claims:
        """What an access token of one of `kinds` says.

        Raises `Unauthenticated`: `TOKEN_MISSING`, `TOKEN_EXPIRED`, or `TOKEN_INVALID` for everything else, another
        kind and a refresh token included.
        """
        return self._verify(token, kinds, "access")

    def verify_refresh(self, token: str | None, *kinds: PrincipalKind) -> Claims:
        """The same for a refresh token."""
        return self._verify(token, kinds, "refresh")

    def _verify(self, token: str | None, kinds: tuple[PrincipalKind, ...], use: Use) -> Claims:
        if not token:
            raise Unauthenticated("cannot let you in: no token was sent; sign in first", code="TOKEN_MISSING")
        claims = self._signed_claims(token)
        audiences = {_audience(kind): kind for kind in kinds}
        kind = audiences.get(str(claims.get("aud")))
        subject, expires, values = claims.get("sub"), claims.get("exp"), claims.get("values")
        issued = claims.get("iat", 0)
        if kind is None or claims.get("use") != use or claims.get("iss") != _ISSUER:
            raise _invalid("it is of another kind than is asked for here")
        if not isinstance(subject, str) or not isinstance(expires, int) or not isinstance(values, dict):
            raise _invalid("it lacks claims")
        if not isinstance(issued, int | float):
            raise _invalid("it lacks claims")
        if self._clock.now().timestamp() >= expires:
            raise Unauthenticated("cannot let you in: the token has expired; sign in again", code="TOKEN_EXPIRED")
        return Claims(kind, subject, _moment(issued), _moment(expires), values)

    def _signed_claims(self, token: str) -> dict[str, object]:
        if len(token) > _MAX_LENGTH:
            raise _invalid("it is too long")
        try:
            header = extract_compact(token.encode()).protected
            name = header.get("kid")
            key = self._verifying(name) if isinstance(name, str) else None
            if not set(header) <= _HEADER_FIELDS or key is None:
                raise _invalid("it was not signed here")
            return dict(jwt.decode(token, key, algorithms=[_ALGORITHM]).claims)
        except (JoseError, ValueError, TypeError) as error:
            raise _invalid("it cannot be read") from error


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _audience(kind: PrincipalKind) -> str:
    return f"aiwm:{kind.value}"


def _invalid(cause: str) -> Unauthenticated:
    return Unauthenticated(f"cannot accept the token: {cause}; sign in again", code="TOKEN_INVALID")
