"""Uploads: clients PUT parts straight to the object store, and a model's files count once their hashes are verified."""

from datetime import timedelta

from aiwm.infra.objects.port import Objects
from aiwm.infra.store.port import Query, Store, Where
from aiwm.infra.store.records import Records
from aiwm.kit.clock import Clock
from aiwm.kit.context import correlation_id
from aiwm.kit.ids import new_id
from aiwm.kit.wake import Wake
from aiwm.models import rules
from aiwm.models.records import CONTENTS, UPLOADS, ModelContent, ModelRecord, UploadRecord, UploadTarget
from aiwm.protocol.errors import Conflict, Invalid, NotFound
from aiwm.protocol.jobs import MODELS_QUEUE, VERIFY_UPLOAD, VerifyUpload
from aiwm.protocol.resources.models import (
    Upload,
    UploadComplete,
    UploadCreate,
    UploadFileParts,
    UploadPart,
)

LIFETIME = timedelta(hours=24)
_URL_SECONDS = 3600
_SWEEP_BATCH = 100


class UploadService:
    """Uploads of custom models."""

    def __init__(self, store: Store, objects: Objects, clock: Clock, relay: Wake) -> None:
        self._objects, self._clock, self._relay = objects, clock, relay
        self._uploads = Records(store, UPLOADS, UploadRecord)
        self._contents = Records(store, CONTENTS, ModelContent)

    async def create(self, model: ModelRecord, params: UploadCreate, *, by: str | None) -> Upload:
        """Begins an upload: where each part goes. Nothing changes on the model yet."""
        rules.check_files(params.files, unpack=params.unpack)
        content = await self._contents.get(model.id) or ModelContent(id=model.id)
        rules.check_uploadable(model, content)
        upload_id = new_id("upload")
        targets = []
        for file in params.files:
            key = f"{rules.upload_root(model.id, upload_id, archive=params.unpack)}/{file.path}"
            multipart_id = await self._objects.create_upload(key)
            targets.append(UploadTarget(**dict(file), key=key, multipart_id=multipart_id))
        record = UploadRecord(
            id=upload_id,
            model_id=model.id,
            org_id=model.owner.org_id,
            created_by=by,
            files=targets,
            unpack=params.unpack,
            part_size=rules.part_size_of(params.files),
            expires_at=self._clock.now() + LIFETIME,
        )
        await self._uploads.insert(record)
        return self._view(record, {})

    async def get(self, model: ModelRecord, upload_id: str) -> Upload:
        """Fresh URLs, and which parts are there."""
        record = await self._open(model, upload_id)
        there = {
            file.path: {part.number: part.etag for part in await self._objects.parts(file.key, file.multipart_id)}
            for file in record.files
        }
        return self._view(record, there)

    async def complete(self, model: ModelRecord, upload_id: str, params: UploadComplete) -> ModelContent:
        """All parts are there: makes the blobs, and has the worker verify them. Repeating it changes nothing."""
        record = await self._record(model, upload_id)
        content = await self._contents.get(model.id) or ModelContent(id=model.id)
        if record.completed and content.upload_id == upload_id:
            return content
        if record.completed or rules.expired(record.expires_at, self._clock.now()):
            raise _upload_gone(upload_id)
        rules.check_uploadable(model, content)
        parts = _matching(record, params)
        for file in record.files:
            await self._objects.complete_upload(file.key, file.multipart_id, parts[file.path])
        await self._uploads.update(record.id, lambda each: each.model_copy(update={"completed": True}))
        total = sum(file.size for file in record.files)
        now = self._clock.now()
        job = VerifyUpload(model_id=model.id, upload_id=upload_id, correlation_id=correlation_id()).to_wire()

        def begin(current: ModelContent) -> ModelContent:
            rules.check_uploadable(model, current)
            return rules.verifying(current, upload_id, total).telling(MODELS_QUEUE, VERIFY_UPLOAD, job, at=now)

        content = await self._contents.update(model.id, begin)
        self._relay.set()
        return content

    async def abandon(self, model: ModelRecord, upload_id: str) -> None:
        """Forgets an upload and its parts."""
        await self._forget(await self._open(model, upload_id))

    async def forget_expired(self) -> int:
        """Removes the parts of uploads that were begun and never completed in time; how many uploads."""
        over = (Where("completed", "eq", False), Where("expiresAt", "lte", self._clock.now()))
        expired_uploads = await self._uploads.find(Query(over, limit=_SWEEP_BATCH))
        for record in expired_uploads:
            await self._forget(record)
        return len(expired_uploads)

    async def _forget(self, record: UploadRecord) -> None:
        for file in record.files:
            await self._objects.abort_upload(file.key, file.multipart_id)
        await self._uploads.delete(record.id)

    async def _record(self, model: ModelRecord, upload_id: str) -> UploadRecord:
        record = await self._uploads.get(upload_id)
        if record is None or record.model_id != model.id:
            raise _upload_gone(upload_id)
        return record

    async def _open(self, model: ModelRecord, upload_id: str) -> UploadRecord:
        record = await self._record(model, upload_id)
        if record.completed or rules.expired(record.expires_at, self._clock.now()):
            raise _upload_gone(upload_id)
        return record

    def _view(self, record: UploadRecord, there: dict[str, dict[int, str]]) -> Upload:
        return Upload(
            upload_id=record.id,
            part_size=record.part_size,
            files=[
                UploadFileParts(
                    path=file.path,
                    parts=[
                        UploadPart(
                            part_number=number,
                            url=self._objects.part_url(file.key, file.multipart_id, number, expires=_URL_SECONDS),
                            etag=there.get(file.path, {}).get(number),
                        )
                        for number in range(1, rules.part_count(file.size, record.part_size) + 1)
                    ],
                )
                for file in record.files
            ],
            expires_at=record.expires_at,
        )


def _matching(record: UploadRecord, params: UploadComplete) -> dict[str, list[tuple[int, str]]]:
    given = {file.path: [(part.part_number, part.etag.strip('"')) for part in file.parts] for file in params.files}
    if set(given) != {file.path for file in record.files}:
        raise Invalid("cannot complete: name every file of the upload, and no other", code="UPLOAD_INCOMPLETE")
    for file in record.files:
        wanted = list(range(1, rules.part_count(file.size, record.part_size) + 1))
        if sorted(number for number, _ in given[file.path]) != wanted:
            raise Invalid(
                f"cannot complete: {file.path!r} needs parts 1 to {len(wanted)}, each once", code="UPLOAD_INCOMPLETE"
            )
    return {path: sorted(parts) for path, parts in given.items()}


def _upload_gone(upload_id: str) -> Conflict | NotFound:
    return NotFound(
        f"cannot find upload {upload_id}: it ended, expired or never was; begin another", code="UPLOAD_NOT_FOUND"
    )
