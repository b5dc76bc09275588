"""API keys over REST: everybody's own, and for owners those in their reach."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from aiwm.access import rules_keys
from aiwm.access.api_keys import ApiKeys, key_view, no_key
from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.access.records import ApiKeyRecord
from aiwm.http.conditional import check_version, if_match
from aiwm.http.idempotency import ANSWERS_SECRET
from aiwm.http.paging import Listing, listing, page_of, to_query
from aiwm.infra.store.port import Any, Condition, Where
from aiwm.kit.acting import acted_on
from aiwm.protocol.resources.api_keys import ApiKey, ApiKeyCreate, ApiKeyMade, ApiKeyPatch
from aiwm.protocol.resources.base import Page
from aiwm.protocol.states import Role

_FILTERS = {"name": "name", "scopes": "scopes", "userId": "owner.userId"}
_SORTS = {each: each for each in ("name", "createdAt", "updatedAt", "expiresAt", "lastUsedAt")}
_SEARCH = ("name", "id")


def api_keys_router(keys: ApiKeys, guard: Guard) -> APIRouter:
    """`/api-keys`."""
    router = APIRouter(prefix="/api-keys", tags=["api keys"])
    reader, writer = guard.needs("api-keys.read"), guard.needs("api-keys.write")

    async def seen_by(who: Principal, key_id: str) -> ApiKeyRecord:
        record = await keys.record(key_id)
        if record is None or not rules_keys.sees(who, record):
            raise no_key(key_id)
        return record

    @router.get("")
    async def list_keys(who: Annotated[Principal, reader], what: Annotated[Listing, Depends(listing)]) -> Page[ApiKey]:
        query = to_query(what, filterable=_FILTERS, sortable=_SORTS, search=_SEARCH, scope=_scope(who))
        views, total = await keys.page(query)
        return page_of(views, what, total)

    @router.post("", status_code=201, dependencies=[ANSWERS_SECRET])
    async def create_key(who: Annotated[Principal, writer], params: ApiKeyCreate) -> ApiKeyMade:
        """Answers the key, this once."""
        return await keys.create(who, params)

    @router.get("/{api_key_id}")
    async def get_key(who: Annotated[Principal, reader], api_key_id: str) -> ApiKey:
        return key_view(await seen_by(who, api_key_id))

    @router.patch("/{api_key_id}")
    async def patch_key(
        who: Annotated[Principal, writer],
        api_key_id: str,
        patch: ApiKeyPatch,
        expected: Annotated[int | None, Depends(if_match)],
    ) -> ApiKey:
        record = await seen_by(who, api_key_id)
        check_version(expected, record.resource_version)
        return await keys.change(record, patch.changes(), by=who.id)

    @router.delete("/{api_key_id}", status_code=204)
    async def revoke_key(who: Annotated[Principal, writer], api_key_id: str) -> Response:
        """Revokes it, and every key that was made with it."""
        record = await seen_by(who, api_key_id)
        acted_on(record.id, record.owner.org_id)
        await keys.revoke(record, by=who.id)
        return Response(status_code=204)

    return router


def _scope(who: Principal) -> tuple[Condition, ...]:
    """`rules_keys.sees` as conditions of a query."""
    own = Where("owner.userId", "eq", who.id)
    if Role.UNIVERSE_OWNER in who.roles:
        return ()
    if Role.ORGANIZATION_OWNER in who.roles and who.org_id is not None:
        return (Any((Where("owner.orgId", "eq", who.org_id), own)),)
    return (own,)
