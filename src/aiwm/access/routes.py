"""REST of signing in: `/auth/…`."""

from typing import Annotated

from fastapi import APIRouter, Request

from aiwm.access.guard import PUBLIC, Guard
from aiwm.access.principal import Principal
from aiwm.access.sessions import Sessions
from aiwm.http.address import address_of
from aiwm.http.gate import bearer
from aiwm.http.idempotency import ANSWERS_SECRET
from aiwm.kit.acting import claims_to_be
from aiwm.protocol.resources.access import LoginRequest, Me, RefreshRequest, TokenPair


def access_router(sessions: Sessions, guard: Guard) -> APIRouter:
    """`/auth/login`, `/auth/refresh`, `/auth/logout`, `/auth/me`."""
    router = APIRouter(prefix="/auth", tags=["auth"])

    @router.post("/login", dependencies=[PUBLIC, ANSWERS_SECRET])
    async def login(body: LoginRequest, request: Request) -> TokenPair:
        """Signs in with username and password."""
        claims_to_be(body.username)
        pair = await sessions.login(body.username, body.password, address_of(request.scope))
        await guard.principal(pair.access_token)
        return pair

    @router.post("/refresh", dependencies=[PUBLIC, ANSWERS_SECRET])
    async def refresh(body: RefreshRequest) -> TokenPair:
        """New tokens for a refresh token."""
        pair = await sessions.refresh(body.refresh_token)
        await guard.principal(pair.access_token)
        return pair

    @router.post("/logout", status_code=204, dependencies=[guard.signed_in()])
    async def logout(request: Request) -> None:
        """Ends the session the access token belongs to."""
        await sessions.logout(bearer(request))

    @router.get("/me")
    async def me(who: Annotated[Principal, guard.signed_in()]) -> Me:
        """Who the caller is."""
        roles = sorted(role.value for role in who.roles)
        return Me(user_id=who.id, username=who.username, org_id=who.org_id, roles=roles, kind=who.kind)

    return router
