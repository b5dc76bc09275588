"""Tokens of an external IAM: verified by the public keys it publishes, and by nothing that a token says of itself.

Keys are fetched from one address that a setting names, kept, and fetched again when they have become old or a token
names a key that is not among them. So keys may be rotated with overlap, and nobody can make us fetch at will: an
unknown key causes one fetch a minute at most. While the IAM is away the kept keys go on for an hour.
"""

import asyncio
import ipaddress
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import extract_compact

from aiwm.kit.clock import Clock
from aiwm.kit.settings import Settings, SettingsError
from aiwm.protocol.errors import Unauthenticated, Unavailable

log = logging.getLogger(__name__)

FRESH_SECONDS = 300.0
STALE_SECONDS = 3600.0
FETCH_EVERY_SECONDS = 60.0
LEEWAY_SECONDS = 30
_FETCH_SECONDS = 5.0
_MAX_ANSWER = 262_144
_MAX_KEYS = 64
_LAST_SECOND = 1e11
_MAX_TOKEN = 16_384
_MIN_RSA_BITS = 2048
_ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
_HEADER_FIELDS = frozenset({"alg", "typ", "kid", "x5t", "x5t#S256"})
_ACCESS_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})

PublicKey = RSAKey | ECKey | OKPKey


@dataclass(frozen=True)
class ExternalClaims:
    """What a verified token of the IAM says."""

    subject: str
    expires_at: datetime
    values: Mapping[str, object]


class ExternalTokens:
    """Verifies for one issuer and audience."""

    def __init__(self, url: str, issuer: str, audience: str, clock: Clock) -> None:
        self._url, self._issuer, self._audience, self._clock = checked_url(url), issuer, audience, clock
        self._keys: dict[str, tuple[str, PublicKey]] = {}
        self._fetched_at, self._tried_at = float("-inf"), float("-inf")
        self._fetching = asyncio.Lock()

    @staticmethod
    def speaks(token: str) -> bool:
        """Whether a token is of the IAM's kind rather than ours: signed otherwise than by a shared secret."""
        return _header(token).get("alg") in _ALGORITHMS

    async def verify(self, token: str) -> ExternalClaims:
        """What the token says.

        Raises `Unauthenticated` (`TOKEN_EXPIRED`, else `TOKEN_INVALID`), `Unavailable` when keys cannot be had.
        """
        header = _checked_header(token)
        key_id, algorithm = str(header["kid"]), str(header["alg"])
        known = await self._key(key_id)
        if known is None or known[0] != algorithm:
            raise _invalid("its key is not one of the identity provider's")
        try:
            with warnings.catch_warnings():
                # The name EdDSA is what identity providers write, though RFC 9864 has a newer one.
                warnings.simplefilter("ignore", SecurityWarning)
                claims = dict(jwt.decode(token, known[1], algorithms=[algorithm]).claims)
        except (JoseError, ValueError, TypeError) as error:
            raise _invalid("its signature or its form is wrong") from error
        return self._checked(claims)

    def _checked(self, claims: Mapping[str, object]) -> ExternalClaims:
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if claims.get("iss") != self._issuer or self._audience not in audiences:
            raise _invalid("it is of another issuer or for another audience")
        # Keycloak says in a claim what a token is for, and signs them all with the same key.
        if str(claims.get("typ", "Bearer")).lower() not in ("bearer", "jwt") or "nonce" in claims:
            raise _invalid("it is no access token")
        subject, expires = claims.get("sub"), _seconds(claims.get("exp"))
        if not isinstance(subject, str) or not 0 < len(subject) <= 255 or expires is None:
            raise _invalid("it lacks sub or exp")
        now = self._clock.now().timestamp()
        if now >= expires:
            raise Unauthenticated("cannot let you in: the token has expired; sign in again", code="TOKEN_EXPIRED")
        for name in ("nbf", "iat"):
            begins = _seconds(claims.get(name, 0))
            if begins is None or begins > now + LEEWAY_SECONDS:
                raise _invalid("it is not good yet")
        return ExternalClaims(subject, datetime.fromtimestamp(expires, UTC), claims)

    async def _key(self, key_id: str) -> tuple[str, PublicKey] | None:
        now = self._clock.monotonic()
        old = now - self._fetched_at > FRESH_SECONDS
        if (old or key_id not in self._keys) and now - self._tried_at >= FETCH_EVERY_SECONDS:
            await self._refetch(now)
        if self._clock.monotonic() - self._fetched_at > STALE_SECONDS:
            raise Unavailable("cannot check the token: the identity provider's keys cannot be had", code="JWKS_AWAY")
        return self._keys.get(key_id)

    async def _refetch(self, asked_at: float) -> None:
        async with self._fetching:
            if self._tried_at >= asked_at:
                return
            self._tried_at = self._clock.monotonic()
            try:
                self._keys = _public_keys(await self._fetch())
                self._fetched_at = self._clock.monotonic()
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                log.warning("cannot fetch the identity provider's keys: %s", error, extra={"url": self._url})

    async def _fetch(self) -> object:
        timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.get(self._url, allow_redirects=False, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"it answered {answer.status}")
            body = await answer.content.read(_MAX_ANSWER + 1)
            while len(body) <= _MAX_ANSWER and (more := await answer.content.read(_MAX_ANSWER)):
                body += more
            if len(body) > _MAX_ANSWER:
                raise ValueError(f"it answered more than {_MAX_ANSWER} bytes")
            return json.loads(body)


def open_external(settings: Settings, clock: Clock) -> ExternalTokens | None:
    """What the settings name; None without `AIWM_JWKS_URL`. Raises `SettingsError`."""
    given = (settings.jwks_url, settings.jwt_issuer, settings.jwt_audience)
    if not any(given):
        return None
    if not all(given):
        raise SettingsError("AIWM_JWKS_URL, AIWM_JWT_ISSUER and AIWM_JWT_AUDIENCE belong together: set all or none")
    return ExternalTokens(settings.jwks_url, settings.jwt_issuer, settings.jwt_audience, clock)


def checked_url(url: str) -> str:
    """`url`, if keys may come from there: over HTTPS, or from this machine itself. Raises `SettingsError`."""
    parts = urlsplit(url)
    if not parts.hostname or parts.username or parts.scheme not in ("http", "https"):
        raise SettingsError("cannot use AIWM_JWKS_URL: it must be like https://HOST/PATH, without a password")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise SettingsError(
            "cannot use AIWM_JWKS_URL: over plain http anybody on the way could put in keys; use https "
            "(http is for an address of this machine alone)"
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _public_keys(answer: object) -> dict[str, tuple[str, PublicKey]]:
    """The signing keys we can use, by id, each with its one algorithm; what is of other use or kind is passed over."""
    entries = answer.get("keys") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it holds no keys")  # noqa: TRY004 - what the other side sent, not a caller's type
    found: dict[str, tuple[str, PublicKey]] = {}
    for entry in entries[:_MAX_KEYS]:
        read = _public_key(entry) if isinstance(entry, dict) and entry.get("use", "sig") == "sig" else None
        if read is not None and isinstance(entry.get("kid"), str):
            found[entry["kid"]] = read
    return found


def _public_key(entry: dict[str, object]) -> tuple[str, PublicKey] | None:
    """The algorithm follows from the key's own kind, never from a token: so no key is used for another's."""
    kind, curve = entry.get("kty"), entry.get("crv")
    public: dict[str, object] = {name: value for name, value in entry.items() if name not in ("key_ops", "x5c")}
    try:
        key: PublicKey
        if kind == "RSA":
            algorithm, key = "RS256", RSAKey.import_key(public)  # type: ignore[arg-type]
            if key.public_key.key_size < _MIN_RSA_BITS:
                return None
        elif kind == "EC" and curve == "P-256":
            algorithm, key = "ES256", ECKey.import_key(public)  # type: ignore[arg-type]
        elif kind == "OKP" and curve == "Ed25519":
            algorithm, key = "EdDSA", OKPKey.import_key(public)  # type: ignore[arg-type]
        else:
            return None
    except (JoseError, ValueError, TypeError):
        return None
    return (algorithm, key) if entry.get("alg", algorithm) in (algorithm, "Ed25519") else None


def _header(token: str) -> Mapping[str, object]:
    if len(token) > _MAX_TOKEN:
        raise _invalid("it is too long")
    try:
        return extract_compact(token.encode()).protected
    except (JoseError, ValueError, TypeError) as error:
        raise _invalid("it cannot be read") from error


def _checked_header(token: str) -> Mapping[str, object]:
    header = _header(token)
    kind = str(header.get("typ", "JWT")).lower()
    if not set(header) <= _HEADER_FIELDS or not isinstance(header.get("kid"), str) or kind not in _ACCESS_TYPES:
        raise _invalid("its header is not one of the identity provider's access tokens")
    return header


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _LAST_SECOND else None


def _invalid(cause: str) -> Unauthenticated:
    return Unauthenticated(f"cannot accept the token: {cause}; sign in again", code="TOKEN_INVALID")
