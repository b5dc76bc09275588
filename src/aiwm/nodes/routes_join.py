"""Join tokens over REST, and the one public route by which a machine becomes a node."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from aiwm.access import policy
from aiwm.access.guard import PUBLIC, Guard
from aiwm.access.principal import Principal
from aiwm.access.scope import scope
from aiwm.http.address import address_of
from aiwm.http.conditional import check_version, if_match
from aiwm.http.idempotency import ANSWERS_SECRET
from aiwm.http.paging import Listing, listing, page_of, to_query
from aiwm.kit.acting import acted_on
from aiwm.nodes.join_records import JoinTokenRecord
from aiwm.nodes.join_rules import PERMISSION
from aiwm.nodes.join_tokens import JoinTokens, no_join_token
from aiwm.nodes.joining import Joining
from aiwm.nodes.service import NodeService
from aiwm.protocol.errors import FieldError, Invalid
from aiwm.protocol.resources.base import Owner, Page
from aiwm.protocol.resources.join_tokens import (
    JoinToken,
    JoinTokenCreate,
    JoinTokenMade,
    JoinTokenPatch,
    NodeJoin,
    NodeJoined,
)

_FILTERS = {"role": "role", "nodeId": "nodeId", "userId": "owner.userId"}
_SORTS = {each: each for each in ("createdAt", "updatedAt", "expiresAt", "usedAt")}
_SEARCH = ("id",)


def join_router(joining: Joining) -> APIRouter:
    """`POST /nodes/join`."""
    router = APIRouter(prefix="/nodes", tags=["nodes"])

    @router.post("/join", status_code=201, dependencies=[PUBLIC, ANSWERS_SECRET])
    async def join(params: NodeJoin, request: Request) -> NodeJoined:
        """Makes the machine that shows a join token a node, and answers the token it dials in with."""
        return await joining.join(params, address_of(request.scope))

    return router


def join_tokens_router(tokens: JoinTokens, nodes: NodeService, guard: Guard) -> APIRouter:
    """`/join-tokens`."""
    router = APIRouter(prefix="/join-tokens", tags=["join tokens"])
    reader = guard.needs("nodes.read")

    async def seen_by(who: Principal, token_id: str) -> JoinTokenRecord:
        record = await tokens.record(token_id)
        if record is None or not policy.visible(who, record.owner.org_id, shareable=True):
            raise no_join_token(token_id)
        return record

    writer = guard.needs(PERMISSION, sees=seen_by)

    async def changed_by(who: Principal, token_id: str) -> JoinTokenRecord:
        record = await seen_by(who, token_id)
        policy.check_changes(who, record.owner.org_id)
        acted_on(record.id, record.owner.org_id)
        return record

    async def owner_of(who: Principal, params: JoinTokenCreate) -> Owner:
        """Whose the node will be, or is that the token readmits."""
        if params.node_id is None:
            return policy.owner_for(who, shared=params.shared)
        node = nodes.find(params.node_id)
        if node is None or not policy.visible(who, node.owner.org_id, shareable=True):
            message = f"cannot find node {params.node_id}: there is none of that id"
            field = FieldError(field="nodeId", message=message, code="NODE_NOT_FOUND")
            raise Invalid(message, code="NODE_NOT_FOUND", fields=[field])
        policy.check_changes(who, node.owner.org_id)
        return Owner(org_id=node.owner.org_id, user_id=who.id)

    @router.get("")
    async def list_join_tokens(
        who: Annotated[Principal, reader], what: Annotated[Listing, Depends(listing)]
    ) -> Page[JoinToken]:
        status, plain = what.without("status")
        within = (*scope(who, shareable=True), *tokens.with_status(status))
        query = to_query(plain, filterable=_FILTERS, sortable=_SORTS, search=_SEARCH, scope=within)
        views, total = await tokens.page(query)
        return page_of(views, what, total)

    @router.post("", status_code=201, dependencies=[ANSWERS_SECRET])
    async def create_join_token(who: Annotated[Principal, writer], params: JoinTokenCreate) -> JoinTokenMade:
        """Answers the token, this once."""
        return await tokens.create(params, owner=await owner_of(who, params), by=who.id)

    @router.get("/{join_token_id}")
    async def get_join_token(who: Annotated[Principal, reader], join_token_id: str) -> JoinToken:
        return tokens.view(await seen_by(who, join_token_id))

    @router.patch("/{join_token_id}")
    async def patch_join_token(
        who: Annotated[Principal, writer],
        join_token_id: str,
        patch: JoinTokenPatch,
        expected: Annotated[int | None, Depends(if_match)],
    ) -> JoinToken:
        record = await changed_by(who, join_token_id)
        check_version(expected, record.resource_version)
        return await tokens.change(record, patch.changes(), by=who.id)

    @router.delete("/{join_token_id}", status_code=204)
    async def revoke_join_token(who: Annotated[Principal, writer], join_token_id: str) -> Response:
        """Revokes it; a node that joined by it stays."""
        await tokens.revoke(await changed_by(who, join_token_id), by=who.id)
        return Response(status_code=204)

    return router
