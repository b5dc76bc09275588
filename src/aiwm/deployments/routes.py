"""Deployments over REST."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from aiwm.access import policy
from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.access.scope import scope
from aiwm.deployments.book import Book
from aiwm.deployments.logs import Logs
from aiwm.deployments.placement import Fleet
from aiwm.deployments.records import Wish, replica_detail
from aiwm.deployments.service import DeploymentService
from aiwm.http.audit import UNRECORDED
from aiwm.http.conditional import check_version, if_match
from aiwm.http.paging import Listing, listing, page_of, to_query
from aiwm.kit.acting import acted_on
from aiwm.models.records import ModelRecord
from aiwm.models.service import ModelService
from aiwm.nodes.service import NodeService
from aiwm.protocol.errors import FieldError, Invalid, NotFound
from aiwm.protocol.node_channel import ReplicaUsage
from aiwm.protocol.resources.base import Owner, Page
from aiwm.protocol.resources.deployments import (
    Deployment,
    DeploymentCreate,
    DeploymentEvent,
    DeploymentPatch,
    DeploymentPlan,
    ReplicaDetail,
    ScaleRequest,
    StopRequest,
)

_FILTERS = {
    "name": "name",
    "modelId": "modelId",
    "environment": "environment",
    "engine": "engine",
    "desired": "desired",
}
_SORTS = {"name": "name", "createdAt": "createdAt", "updatedAt": "updatedAt"}
_SEARCH = ("name", "description", "id")


def deployments_router(
    deployments: DeploymentService,
    book: Book,
    models: ModelService,
    nodes: NodeService,
    logs: Logs,
    fleet: Callable[[], Fleet],
    usage: Callable[[str, str], ReplicaUsage | None],
    guard: Guard,
) -> APIRouter:
    """`fleet()` is what placement sees now, `usage(node_id, replica_id)` what a replica uses, where that is known."""
    router = APIRouter(prefix="/deployments", tags=["deployments"])
    reader = guard.needs("deployments.read")

    def seen_by(who: Principal, deployment_id: str) -> Wish:
        wish = deployments.wish(deployment_id)
        if not policy.visible(who, wish.owner.org_id):
            raise NotFound(
                f"cannot find deployment {deployment_id}: there is none of that id", code="DEPLOYMENT_NOT_FOUND"
            )
        return wish

    async def sees(who: Principal, deployment_id: str) -> Wish:
        return seen_by(who, deployment_id)

    writer = guard.needs("deployments.write", sees=sees)

    def changed_by(who: Principal, deployment_id: str) -> Wish:
        wish = seen_by(who, deployment_id)
        policy.check_changes(who, wish.owner.org_id)
        acted_on(wish.id, wish.owner.org_id)
        return wish

    async def checked(who: Principal, params: DeploymentCreate) -> tuple[ModelRecord, Owner]:
        """The model it names and whose it will be, where the model is the caller's to see and the node can take it."""
        owner = policy.owner_for(who)
        model = await models.find(params.model_id)
        if model is None or not policy.visible(who, model.owner.org_id, shareable=True):
            raise _unknown("modelId", params.model_id, "MODEL_NOT_FOUND")
        if params.node_id is not None:
            node = nodes.find(params.node_id)
            if node is None or node.owner.org_id not in (None, owner.org_id):
                raise _unknown("nodeId", params.node_id, "NODE_NOT_FOUND")
        return model, owner

    @router.get("")
    async def list_deployments(
        who: Annotated[Principal, reader], what: Annotated[Listing, Depends(listing)]
    ) -> Page[Deployment]:
        status, plain = what.without("status")
        within = (*scope(who), *deployments.with_status(status))
        query = to_query(plain, filterable=_FILTERS, sortable=_SORTS, search=_SEARCH, scope=within)
        views, total = await deployments.page(query)
        return page_of(views, what, total)

    @router.post("", status_code=201)
    async def create_deployment(who: Annotated[Principal, writer], params: DeploymentCreate) -> Deployment:
        model, owner = await checked(who, params)
        return await deployments.create(params, model, fleet(), owner=owner, by=who.id)

    @router.post("/plan", dependencies=[UNRECORDED])
    async def plan_deployment(who: Annotated[Principal, writer], params: DeploymentCreate) -> DeploymentPlan:
        model, owner = await checked(who, params)
        return deployments.plan(params, model, fleet(), owner=owner, by=who.id)

    @router.get("/{deployment_id}")
    async def get_deployment(who: Annotated[Principal, reader], deployment_id: str) -> Deployment:
        return await deployments.view(seen_by(who, deployment_id))

    @router.patch("/{deployment_id}")
    async def patch_deployment(
        who: Annotated[Principal, writer],
        deployment_id: str,
        patch: DeploymentPatch,
        expected: Annotated[int | None, Depends(if_match)],
    ) -> Deployment:
        wish = changed_by(who, deployment_id)
        check_version(expected, wish.resource_version)
        return await deployments.change(wish, patch.changes(), by=who.id)

    @router.delete("/{deployment_id}", status_code=204, responses={202: {"model": Deployment}})
    async def delete_deployment(who: Annotated[Principal, writer], deployment_id: str) -> Response:
        wish = changed_by(who, deployment_id)
        if await deployments.delete(wish, by=who.id):
            return Response(status_code=204)
        view = await deployments.view(deployments.wish(deployment_id))
        return Response(view.model_dump_json(by_alias=True), status_code=202, media_type="application/json")

    @router.post("/{deployment_id}/start", status_code=202)
    async def start(who: Annotated[Principal, writer], deployment_id: str) -> Deployment:
        return await deployments.start(changed_by(who, deployment_id), by=who.id)

    @router.post("/{deployment_id}/stop", status_code=202)
    async def stop(
        who: Annotated[Principal, writer], deployment_id: str, params: StopRequest | None = None
    ) -> Deployment:
        return await deployments.stop(changed_by(who, deployment_id), params or StopRequest(), by=who.id)

    @router.post("/{deployment_id}/restart", status_code=202)
    async def restart(who: Annotated[Principal, writer], deployment_id: str) -> Deployment:
        return await deployments.restart(changed_by(who, deployment_id), by=who.id)

    @router.post("/{deployment_id}/scale", status_code=202)
    async def scale(who: Annotated[Principal, writer], deployment_id: str, params: ScaleRequest) -> Deployment:
        wish = changed_by(who, deployment_id)
        if wish.replicas == params.replicas:
            return await deployments.view(wish)
        return await deployments.change(wish, {"replicas": params.replicas}, by=who.id)

    @router.get("/{deployment_id}/replicas")
    async def replicas(who: Annotated[Principal, reader], deployment_id: str) -> list[ReplicaDetail]:
        state = book.state(seen_by(who, deployment_id).id)
        return [replica_detail(each, usage(each.node_id, each.replica_id)) for each in state.replicas]

    @router.get("/{deployment_id}/events")
    async def events(who: Annotated[Principal, reader], deployment_id: str) -> list[DeploymentEvent]:
        return await deployments.events(seen_by(who, deployment_id))

    @router.get("/{deployment_id}/logs", response_class=StreamingResponse)
    async def read_logs(
        who: Annotated[Principal, reader],
        deployment_id: str,
        request: Request,
        follow: bool = False,
        tail: Annotated[int, Query(ge=0, le=10_000)] = 100,
    ) -> Response:
        wish = seen_by(who, deployment_id)
        begin = await logs.first(book.state(wish.id), tail)
        source = {"X-Log-Source": begin.source}
        as_events = "text/event-stream" in request.headers.get("accept", "")
        if not follow and not as_events:
            return Response(begin.piece.text, media_type="text/plain; charset=utf-8", headers=source)
        pieces = logs.follow(wish.id, begin)
        if as_events:
            return StreamingResponse(_as_events(pieces), media_type="text/event-stream", headers=source)
        return StreamingResponse(pieces, media_type="text/plain; charset=utf-8", headers=source)

    return router


async def _as_events(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    async for piece in pieces:
        for line in piece.splitlines():
            yield f"data: {line}\n\n"


def _unknown(field: str, value: str, code: str) -> Invalid:
    reason = f"{value} does not exist, or belongs to another organization"
    return Invalid(
        f"cannot deploy: {field} {reason}",
        code=code,
        fields=[FieldError(field=field, message=reason, code=code)],
    )
