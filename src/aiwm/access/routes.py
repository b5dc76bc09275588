"""REST of signing in: `/auth/…`."""

from typing import Annotated

from fastapi import APIRouter, Request

from aiwm.access.guard import PUBLIC, Guard
from aiwm.access.principal import Principal
from aiwm.access.service import Users
from aiwm.http.gate import bearer
from aiwm.http.idempotency import ANSWERS_SECRET
from aiwm.protocol.resources.access import LoginRequest, Me, RefreshRequest, TokenPair


def access_router(users: Users, guard: Guard) -> APIRouter:
    """`/auth/login`, `/auth/refresh`, `/auth/logout`, `/auth/me`."""
    router = APIRouter(prefix="/auth", tags=["auth"])

    @router.post("/login", dependencies=[PUBLIC, ANSWERS_SECRET])
    async def login(body: LoginRequest) -> TokenPair:
        """Signs in with username and password."""
        return await users.login(body.username, body.password)

    @router.post("/refresh", dependencies=[PUBLIC, ANSWERS_SECRET])
    async def refresh(body: RefreshRequest) -> TokenPair:
        """New tokens for a refresh token."""
        return await users.refresh(body.refresh_token)

    @router.post("/logout", status_code=204, dependencies=[guard.signed_in()])
    async def logout(request: Request) -> None:
        """Ends the session the access token belongs to."""
        await users.logout(bearer(request))

    @router.get("/me")
    async def me(who: Annotated[Principal, guard.signed_in()]) -> Me:
        """Who the caller is."""
        roles = sorted(role.value for role in who.roles)
        return Me(user_id=who.id, username=who.username, org_id=who.org_id, roles=roles, kind=who.kind)

    return router
