"""Nodes over REST."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from aiwm.access import policy
from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.access.scope import scope
from aiwm.http.conditional import check_version, if_match
from aiwm.http.idempotency import ANSWERS_SECRET
from aiwm.http.paging import Listing, listing, page_of, to_query
from aiwm.kit.acting import acted_on
from aiwm.nodes.records import NodeRecord
from aiwm.nodes.service import NodeService
from aiwm.protocol.errors import Conflict, NotFound
from aiwm.protocol.resources.base import Page
from aiwm.protocol.resources.nodes import Node, NodeCreate, NodePatch, NodeToken, NodeTokenRequest

_FILTERS = {"name": "name", "role": "role"}
_SORTS = {"name": "name", "createdAt": "createdAt", "updatedAt": "updatedAt"}
_SEARCH = ("name", "id")


def nodes_router(
    nodes: NodeService,
    guard: Guard,
    disconnect: Callable[[str], Awaitable[None]],
    in_use: Callable[[str], bool],
    forget: Callable[[str], Awaitable[None]],
) -> APIRouter:
    """`disconnect(node_id)` ends a connection that may no longer be; `in_use(node_id)`: whether replicas are on it;
    `forget(node_id)` removes what was measured of a node that is no longer."""
    router = APIRouter(prefix="/nodes", tags=["nodes"])
    reader = guard.needs("nodes.read")

    async def seen_by(who: Principal, node_id: str) -> NodeRecord:
        record = nodes.record(node_id)
        if not policy.visible(who, record.owner.org_id, shareable=True):
            raise NotFound(f"cannot find node {node_id}: there is none of that id", code="NODE_NOT_FOUND")
        return record

    writer = guard.needs("nodes.write", sees=seen_by)

    async def changed_by(who: Principal, node_id: str) -> NodeRecord:
        record = await seen_by(who, node_id)
        policy.check_changes(who, record.owner.org_id)
        acted_on(record.id, record.owner.org_id)
        return record

    @router.get("")
    async def list_nodes(who: Annotated[Principal, reader], what: Annotated[Listing, Depends(listing)]) -> Page[Node]:
        status, plain = what.without("status")
        within = (*scope(who, shareable=True), *nodes.with_status(status))
        query = to_query(plain, filterable=_FILTERS, sortable=_SORTS, search=_SEARCH, scope=within)
        views, total = await nodes.page(query)
        return page_of(views, what, total)

    @router.post("", status_code=201)
    async def create_node(who: Annotated[Principal, writer], params: NodeCreate) -> Node:
        return await nodes.create(params, owner=policy.owner_for(who, shared=params.shared), by=who.id)

    @router.get("/{node_id}")
    async def get_node(who: Annotated[Principal, reader], node_id: str) -> Node:
        return nodes.view(await seen_by(who, node_id))

    @router.patch("/{node_id}")
    async def patch_node(
        who: Annotated[Principal, writer],
        node_id: str,
        patch: NodePatch,
        expected: Annotated[int | None, Depends(if_match)],
    ) -> Node:
        record = await changed_by(who, node_id)
        check_version(expected, record.resource_version)
        return await nodes.change(record, patch.changes(), by=who.id)

    @router.delete("/{node_id}", status_code=204)
    async def delete_node(who: Annotated[Principal, writer], node_id: str) -> Response:
        record = await changed_by(who, node_id)
        if in_use(node_id):
            raise Conflict(
                "cannot delete this node: replicas are on it; stop their deployments first (force, if it is lost)",
                code="NODE_IN_USE",
            )
        await nodes.delete(record, by=who.id)
        await disconnect(node_id)
        await forget(node_id)
        return Response(status_code=204)

    @router.post("/{node_id}/token", dependencies=[ANSWERS_SECRET])
    async def node_token(who: Annotated[Principal, writer], node_id: str, params: NodeTokenRequest) -> NodeToken:
        return nodes.token(await changed_by(who, node_id), params.expires_in)

    @router.post("/{node_id}/revoke")
    async def revoke(who: Annotated[Principal, writer], node_id: str) -> Node:
        """Ends the node's connection; the tokens it was given until now open nothing any more."""
        node = await nodes.revoke(await changed_by(who, node_id), by=who.id)
        await disconnect(node_id)
        return node

    @router.post("/{node_id}/cordon")
    async def cordon(who: Annotated[Principal, writer], node_id: str) -> Node:
        return await schedulable(who, node_id, False)

    @router.post("/{node_id}/uncordon")
    async def uncordon(who: Annotated[Principal, writer], node_id: str) -> Node:
        return await schedulable(who, node_id, True)

    async def schedulable(who: Principal, node_id: str, wanted: bool) -> Node:
        record = await changed_by(who, node_id)
        if record.schedulable is wanted:
            return nodes.view(record)
        return await nodes.change(record, {"schedulable": wanted}, by=who.id)

    return router
