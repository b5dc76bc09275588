"""Whoever a bearer is: signed in here, with an API key, or vouched for by an external IAM. One answer for all doors."""

import hashlib

from aiwm.access.api_keys import ApiKeys
from aiwm.access.external import ExternalUsers
from aiwm.access.rules_keys import KEY_PREFIX
from aiwm.access.sessions import Sessions
from aiwm.access.verified import Identity, Verified
from aiwm.infra.tokens import Tokens
from aiwm.protocol.states import PrincipalKind

_MAX_LENGTH = 16_384


class Identities:
    """`external` is None where no external IAM is trusted."""

    def __init__(
        self, tokens: Tokens, sessions: Sessions, keys: ApiKeys, external: ExternalUsers | None, verified: Verified
    ) -> None:
        self._tokens, self._sessions, self._keys, self._external = tokens, sessions, keys, external
        self._verified = verified

    async def identity(self, token: str | None) -> Identity:
        """Who the bearer is, as known for two seconds at most; raises `Unauthenticated`."""
        if token is None or not token or len(token) > _MAX_LENGTH:
            return await self._looked_up(token)
        shown = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        known = self._verified.get(shown)
        if known is not None:
            return known
        era = self._verified.era
        identity = await self._looked_up(token)
        self._verified.keep(shown, identity, era=era)
        return identity

    async def _looked_up(self, token: str | None) -> Identity:
        if token is not None and token.startswith(KEY_PREFIX):
            return Identity(*await self._keys.principal(token))
        if token and self._external is not None and self._external.speaks(token):
            return Identity(*await self._external.principal(token))
        claims = self._tokens.verify(token, PrincipalKind.USER)
        return Identity(await self._sessions.principal(claims), claims.expires_at)
