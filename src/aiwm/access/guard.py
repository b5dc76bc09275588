"""The guard: from a bearer token to a principal that may do this, or a refusal. Routes declare what they need."""

from typing import Annotated, Any

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from aiwm.access.policy import may
from aiwm.access.principal import Principal
from aiwm.access.service import Users
from aiwm.http.gate import PUBLIC, check_default_deny, declares
from aiwm.infra.tokens import Tokens
from aiwm.protocol.errors import Denied
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
        return await self._users.principal(self._tokens.verify(token, PrincipalKind.USER))

    async def identity(self, token: str | None) -> str:
        """The bearer's id; raises `Unauthenticated`."""
        return (await self.principal(token)).id

    async def admit(self, token: str | None, permission: str) -> Principal:
        """Who the bearer is, if it has `permission`; raises `Unauthenticated` or `Denied`."""
        principal = await self.principal(token)
        if not may(principal, permission):
            raise Denied(f"cannot do this: none of your roles has the permission {permission}")
        return principal

    def needs(self, permission: str) -> Any:
        """A dependency for `Annotated[Principal, guard.needs("nodes.read")]`."""

        async def admitted(credentials: Credentials) -> Principal:
            return await self.admit(credentials.credentials if credentials else None, permission)

        return Depends(declares(admitted, permission))

    def signed_in(self) -> Any:
        """The same for what every signed-in user may do."""

        async def known(credentials: Credentials) -> Principal:
            return await self.principal(credentials.credentials if credentials else None)

        return Depends(declares(known, "signed in"))
