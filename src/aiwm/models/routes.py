"""Models over REST: the registry and its uploads."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from aiwm.access import policy
from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.access.scope import scope
from aiwm.http.conditional import check_version, if_match
from aiwm.http.paging import Listing, listing, page_of, to_query
from aiwm.kit.acting import acted_on
from aiwm.models.records import ModelRecord
from aiwm.models.service import ModelService
from aiwm.models.uploads import UploadService
from aiwm.protocol.errors import Conflict, NotFound
from aiwm.protocol.resources.base import Page
from aiwm.protocol.resources.models import (
    Model,
    ModelCreate,
    ModelFile,
    ModelPatch,
    Upload,
    UploadComplete,
    UploadCreate,
)

_FILTERS = {
    "name": "name",
    "version": "modelVersion",
    "framework": "framework",
    "taskType": "taskType",
    "source": "source",
}
_SORTS = {"name": "name", "createdAt": "createdAt", "updatedAt": "updatedAt"}
_SEARCH = ("name", "description", "id")

InUse = Callable[[str], Awaitable[bool]]


def models_router(models: ModelService, uploads: UploadService, guard: Guard, in_use: InUse) -> APIRouter:
    """`in_use(model_id)` says whether a deployment still wants the model."""
    router = APIRouter(prefix="/models", tags=["models"])
    reader = guard.needs("models.read")

    async def seen_by(who: Principal, model_id: str) -> ModelRecord:
        record = await models.record(model_id)
        if not policy.visible(who, record.owner.org_id, shareable=True):
            raise NotFound(f"cannot find model {model_id}: there is none of that id", code="MODEL_NOT_FOUND")
        return record

    writer = guard.needs("models.write", sees=seen_by)

    async def changed_by(who: Principal, model_id: str) -> ModelRecord:
        record = await seen_by(who, model_id)
        policy.check_changes(who, record.owner.org_id)
        acted_on(record.id, record.owner.org_id)
        return record

    @router.get("")
    async def list_models(who: Annotated[Principal, reader], what: Annotated[Listing, Depends(listing)]) -> Page[Model]:
        status, plain = what.without("downloadStatus")
        within = (*scope(who, shareable=True), *await models.with_status(status))
        query = to_query(plain, filterable=_FILTERS, sortable=_SORTS, search=_SEARCH, scope=within)
        views, total = await models.page(query)
        return page_of(views, what, total)

    @router.post("", status_code=201)
    async def create_model(who: Annotated[Principal, writer], params: ModelCreate) -> Model:
        return await models.create(params, owner=policy.owner_for(who, shared=params.shared), by=who.id)

    @router.get("/{model_id}")
    async def get_model(who: Annotated[Principal, reader], model_id: str) -> Model:
        return await models.view(await seen_by(who, model_id))

    @router.patch("/{model_id}")
    async def patch_model(
        who: Annotated[Principal, writer],
        model_id: str,
        patch: ModelPatch,
        expected: Annotated[int | None, Depends(if_match)],
    ) -> Model:
        record = await changed_by(who, model_id)
        check_version(expected, record.resource_version)
        return await models.change(record, patch.changes(), by=who.id)

    @router.delete("/{model_id}", status_code=204)
    async def delete_model(who: Annotated[Principal, writer], model_id: str) -> Response:
        record = await changed_by(who, model_id)
        if await in_use(model_id):
            raise Conflict("cannot delete this model: a deployment uses it; delete that first", code="MODEL_IN_USE")
        await models.delete(record, by=who.id)
        return Response(status_code=204)

    @router.get("/{model_id}/files")
    async def list_files(who: Annotated[Principal, reader], model_id: str) -> list[ModelFile]:
        record = await seen_by(who, model_id)
        return (await models.content(record.id)).files

    @router.post("/{model_id}/uploads", status_code=201)
    async def create_upload(who: Annotated[Principal, writer], model_id: str, params: UploadCreate) -> Upload:
        return await uploads.create(await changed_by(who, model_id), params, by=who.id)

    @router.get("/{model_id}/uploads/{upload_id}")
    async def get_upload(who: Annotated[Principal, writer], model_id: str, upload_id: str) -> Upload:
        return await uploads.get(await changed_by(who, model_id), upload_id)

    @router.post("/{model_id}/uploads/{upload_id}/complete", status_code=202)
    async def complete_upload(
        who: Annotated[Principal, writer], model_id: str, upload_id: str, params: UploadComplete
    ) -> Model:
        record = await changed_by(who, model_id)
        await uploads.complete(record, upload_id, params)
        return await models.view(record)

    @router.delete("/{model_id}/uploads/{upload_id}", status_code=204)
    async def abandon_upload(who: Annotated[Principal, writer], model_id: str, upload_id: str) -> Response:
        await uploads.abandon(await changed_by(who, model_id), upload_id)
        return Response(status_code=204)

    return router
