"""REST of organizations: `/organizations`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from aiwm.access.guard import Guard
from aiwm.access.organizations import Organizations
from aiwm.access.principal import Principal
from aiwm.access.records import organization_view
from aiwm.access.scope import scope
from aiwm.http.conditional import check_version, if_match
from aiwm.http.paging import Listing, listing, page_of, to_query
from aiwm.protocol.resources.access import Organization, OrganizationCreate, OrganizationPatch
from aiwm.protocol.resources.base import Page

_FILTERS = {"name": "name"}
_SORTS = {"name": "name", "createdAt": "createdAt", "updatedAt": "updatedAt"}
_SEARCH = ("name", "id")


def organizations_router(organizations: Organizations, guard: Guard) -> APIRouter:
    """`universe.owner` makes and removes them; an organization's owner names its own."""
    router = APIRouter(prefix="/organizations", tags=["organizations"])
    reader = guard.needs("organizations.read")
    writer = guard.needs("organizations.write", sees=organizations.seen_by)
    maker = guard.needs("organizations.create", sees=organizations.seen_by)

    @router.get("")
    async def list_organizations(
        who: Annotated[Principal, reader], what: Annotated[Listing, Depends(listing)]
    ) -> Page[Organization]:
        query = to_query(what, filterable=_FILTERS, sortable=_SORTS, search=_SEARCH, scope=scope(who))
        views, total = await organizations.page(query)
        return page_of(views, what, total)

    @router.post("", status_code=201)
    async def create_organization(who: Annotated[Principal, maker], params: OrganizationCreate) -> Organization:
        return await organizations.create(who, params)

    @router.get("/{org_id}")
    async def get_organization(who: Annotated[Principal, reader], org_id: str) -> Organization:
        return organization_view(await organizations.seen_by(who, org_id))

    @router.patch("/{org_id}")
    async def patch_organization(
        who: Annotated[Principal, writer],
        org_id: str,
        patch: OrganizationPatch,
        expected: Annotated[int | None, Depends(if_match)],
    ) -> Organization:
        record = await organizations.seen_by(who, org_id)
        check_version(expected, record.resource_version)
        return await organizations.change(who, record, patch.changes())

    @router.delete("/{org_id}", status_code=204)
    async def delete_organization(who: Annotated[Principal, maker], org_id: str) -> Response:
        await organizations.delete(who, await organizations.seen_by(who, org_id))
        return Response(status_code=204)

    return router
