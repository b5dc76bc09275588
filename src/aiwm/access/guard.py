"""The guard: from a bearer token to a principal that may do this, or a refusal. Routes declare what they need."""

from typing import Annotated, Any

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from aiwm.access import policy
from aiwm.access.principal import Principal
from aiwm.access.service import Users
from aiwm.access.watch import Seat
from aiwm.http.gate import PUBLIC, check_default_deny, declares
from aiwm.infra.tokens import Tokens
from aiwm.kit.acting import Actor, acted_by
from aiwm.protocol.states import PrincipalKind

__all__ = ["PUBLIC", "Guard", "check_default_deny"]

_bearer = HTTPBearer(auto_error=False, description="an access token of POST /api/v1/auth/login")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


class Guard:
    """Stands before routes and sockets."""

    def __init__(self, tokens: Tokens, users: Users) -> None:
        self._tokens, self._users = tokens, users

    async def principal(self, token: str | None) -> Principal:
        """Who the bearer is, if it still exists and is active; raises `Unauthenticated`."""
        who = await self._users.principal(self._tokens.verify(token, PrincipalKind.USER))
        acted_by(Actor(who.kind.value, who.id, who.username, who.org_id))
        return who

    async def seat(self, token: str | None) -> Seat:
        """What a connection stands on that this token opens; raises `Unauthenticated`."""
        claims = self._tokens.verify(token, PrincipalKind.USER)
        return Seat(await self.principal(token), claims.expires_at)

    async def identity(self, token: str | None) -> str:
        """The bearer's id; raises `Unauthenticated`."""
        return (await self.principal(token)).id

    async def admit(self, token: str | None, permission: str) -> Principal:
        """Who the bearer is, with the roles that have `permission`; raises `Unauthenticated` or `Denied`."""
        return policy.acting(await self.principal(token), permission)

    def needs(self, permission: str) -> Any:
        """A dependency for `Annotated[Principal, guard.needs("nodes.read")]`; `RuntimeError` when no role has it."""
        if not policy.known(permission):
            raise RuntimeError(f"cannot start: a route needs the permission {permission}, which no role has")

        async def admitted(credentials: Credentials) -> Principal:
            return await self.admit(credentials.credentials if credentials else None, permission)

        return Depends(declares(admitted, permission))

    def signed_in(self) -> Any:
        """The same for what every signed-in user may do."""

        async def known(credentials: Credentials) -> Principal:
            return await self.principal(credentials.credentials if credentials else None)

        return Depends(declares(known, "signed in"))
