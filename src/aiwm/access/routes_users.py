"""REST of users: `/users`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from aiwm.access.accounts import Accounts, check_password_of
from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.access.records import user_view
from aiwm.access.scope import scope
from aiwm.http.conditional import check_version, if_match
from aiwm.http.paging import Listing, listing, page_of, to_query
from aiwm.kit.acting import acted_on
from aiwm.protocol.resources.access import PasswordChange, User, UserCreate, UserPatch
from aiwm.protocol.resources.base import Page

_FILTERS = {"username": "username", "orgId": "orgId", "role": "roles", "isActive": "isActive"}
_SORTS = {"username": "username", "createdAt": "createdAt", "updatedAt": "updatedAt"}
_SEARCH = ("username", "id")


def users_router(accounts: Accounts, guard: Guard) -> APIRouter:
    """Owners manage the users within their reach; everybody sets an own password."""
    router = APIRouter(prefix="/users", tags=["users"])
    reader = guard.needs("users.read")
    writer = guard.needs("users.write", sees=accounts.seen_by)

    @router.get("")
    async def list_users(who: Annotated[Principal, reader], what: Annotated[Listing, Depends(listing)]) -> Page[User]:
        query = to_query(what, filterable=_FILTERS, sortable=_SORTS, search=_SEARCH, scope=scope(who))
        views, total = await accounts.page(query)
        return page_of(views, what, total)

    @router.post("", status_code=201)
    async def create_user(who: Annotated[Principal, writer], params: UserCreate) -> User:
        return await accounts.create(who, params)

    @router.get("/{user_id}")
    async def get_user(who: Annotated[Principal, reader], user_id: str) -> User:
        return user_view(await accounts.seen_by(who, user_id))

    @router.patch("/{user_id}")
    async def patch_user(
        who: Annotated[Principal, writer],
        user_id: str,
        patch: UserPatch,
        expected: Annotated[int | None, Depends(if_match)],
    ) -> User:
        record = await accounts.managed_by(who, user_id)
        check_version(expected, record.resource_version)
        return await accounts.change(who, record, patch.changes())

    @router.delete("/{user_id}", status_code=204)
    async def delete_user(who: Annotated[Principal, writer], user_id: str) -> Response:
        record = await accounts.managed_by(who, user_id)
        acted_on(record.id, record.org_id)
        await accounts.delete(who, record)
        return Response(status_code=204)

    @router.post("/{user_id}/password", status_code=204)
    async def set_password(
        who: Annotated[Principal, guard.needs("account.password")], user_id: str, params: PasswordChange
    ) -> Response:
        """Sets a new password, the caller's own or that of a user it manages; the user has to sign in again."""
        record = await accounts.seen_by(who, user_id)
        check_password_of(who, record)
        acted_on(record.id, record.org_id)
        await accounts.set_password(who, record, params.password)
        return Response(status_code=204)

    return router
