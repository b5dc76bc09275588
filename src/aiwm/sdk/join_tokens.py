"""Join tokens: each lets one machine in, once."""

from aiwm.protocol.resources.join_tokens import JoinToken, JoinTokenMade
from aiwm.sdk.nouns import Noun
from aiwm.sdk.transport import Body, read_as


class JoinTokens(Noun[JoinToken]):
    """`client.join_tokens`; `delete` revokes."""

    path, noun, kind = "/api/v1/join-tokens", "join_token", JoinToken

    async def create(self, params: Body = None, *, idempotency_key: str | None = None) -> JoinTokenMade:
        """A new one; its `token` is in this answer alone."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        made = await self._transport.request("POST", self.path, json=params or {}, headers=headers)
        return read_as(JoinTokenMade, made)

    async def resolve(self, reference: str) -> str:
        """The id, which is all a join token has. Raises `NotFound`."""
        return self.id_of(await self.get(reference))
