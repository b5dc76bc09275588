"""The guard: from a bearer token to a principal that may do this, or a refusal. Routes declare what they need."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from aiwm.access import policy, scopes
from aiwm.access.identities import Identities
from aiwm.access.principal import Principal
from aiwm.access.watch import Seat
from aiwm.http.gate import PUBLIC, check_default_deny, declares
from aiwm.kit.acting import Actor, acted_by

__all__ = ["PUBLIC", "Guard", "check_default_deny"]

_bearer = HTTPBearer(auto_error=False, description="an access token of POST /api/v1/auth/login")
Sees = Callable[[Principal, str], Awaitable[object]]
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


class Guard:
    """Stands before routes and sockets."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    async def principal(self, token: str | None) -> Principal:
        """Who the bearer is, if it still exists and is active; raises `Unauthenticated`."""
        who = (await self._identities.identity(token)).principal
        acted_by(Actor(who.kind.value, who.id, who.username, who.org_id))
        return who

    async def seat(self, token: str | None) -> Seat:
        """What a connection stands on that this token opens; raises `Unauthenticated`."""
        principal = await self.principal(token)
        return Seat(principal, (await self._identities.identity(token)).expires_at)

    async def identity(self, token: str | None) -> str:
        """Whose answers the bearer may be given again: its own id, or its API key's; raises `Unauthenticated`."""
        who = await self.principal(token)
        return who.id if who.scopes is None else who.credential

    async def admit(self, token: str | None, permission: str) -> Principal:
        """Who the bearer is, with the roles that have `permission`; raises `Unauthenticated` or `Denied`."""
        return policy.acting(await self.principal(token), permission)

    def needs(self, permission: str, *, sees: Sees | None = None) -> Any:
        """A dependency for `Annotated[Principal, guard.needs("nodes.read")]`; `RuntimeError` when no role has it.

        `sees(principal, id)` raises `NotFound` for what the caller may not see: who lacks the permission hears that
        first, where the path names a thing.
        """
        if not policy.known(permission):
            raise RuntimeError(f"cannot start: a route needs the permission {permission}, which no role has")

        async def admitted(credentials: Credentials, request: Request) -> Principal:
            who = await self.principal(credentials.credentials if credentials else None)
            named = next(iter(request.path_params.values()), None)
            if sees is not None and named is not None and not policy.may(who, permission):
                await sees(who, str(named))
            return policy.acting(who, permission)

        return Depends(declares(admitted, permission))

    def signed_in(self) -> Any:
        """The same for what every signed-in user may do."""

        async def known(credentials: Credentials) -> Principal:
            who = await self.principal(credentials.credentials if credentials else None)
            scopes.check_whole(who)
            return who

        return Depends(declares(known, "signed in"))
