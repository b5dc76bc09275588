"""The worker's part of an upload: unpack where asked, hash everything, and make the model ready or say why not."""

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from aiwm.infra.objects.port import Objects
from aiwm.infra.queue.port import Job
from aiwm.infra.store.port import Store
from aiwm.infra.store.records import Records
from aiwm.kit.clock import Clock, iso
from aiwm.kit.context import correlated
from aiwm.kit.wake import Wake
from aiwm.models import rules
from aiwm.models.archives import unpack
from aiwm.models.records import CONTENTS, MODELS, UPLOADS, ModelContent, ModelRecord, UploadRecord, UploadTarget
from aiwm.protocol.errors import AiwmError, Invalid, NotFound
from aiwm.protocol.jobs import REMOVE_FILES, VERIFY_UPLOAD, RemoveFiles, VerifyUpload
from aiwm.protocol.notifications import QUEUE
from aiwm.protocol.resources.models import ModelFile, Progress
from aiwm.protocol.states import DownloadStatus

log = logging.getLogger(__name__)

_CHUNK = 2**20
_MAX_UNPACKED = 2**40
_PROGRESS_BYTES = 256 * 2**20


class ModelJobs:
    """Handles the jobs of the `models` queue; every one may be delivered twice."""

    def __init__(self, store: Store, objects: Objects, clock: Clock, relay: Wake, scratch: Path) -> None:
        self._objects, self._clock, self._relay, self._scratch = objects, clock, relay, scratch
        self._models = Records(store, MODELS, ModelRecord)
        self._contents = Records(store, CONTENTS, ModelContent)
        self._uploads = Records(store, UPLOADS, UploadRecord)

    async def handle(self, job: Job) -> None:
        """Does one job."""
        if job.name == VERIFY_UPLOAD:
            order = VerifyUpload.model_validate(job.data)
            with correlated(order.correlation_id):
                await self._verify(order)
        elif job.name == REMOVE_FILES:
            removal = RemoveFiles.model_validate(job.data)
            with correlated(removal.correlation_id):
                await self._remove(f"models/{removal.model_id}")
        else:
            raise Invalid(f"cannot do job {job.name!r}: unknown name", code="JOB_UNKNOWN")

    async def _verify(self, order: VerifyUpload) -> None:
        model, content = await self._models.get(order.model_id), await self._contents.get(order.model_id)
        upload = await self._uploads.get(order.upload_id)
        if model is None or content is None or upload is None or content.upload_id != order.upload_id:
            log.info("verification is no longer wanted", extra={"modelId": order.model_id})
            return
        if content.download_status is DownloadStatus.DOWNLOADING:
            await self._take(model, content, upload)
        await self._remove(rules.upload_root(model.id, upload.id, archive=True))

    async def _take(self, model: ModelRecord, content: ModelContent, upload: UploadRecord) -> None:
        root = rules.upload_root(model.id, upload.id)
        try:
            files = await self._unpacked(upload, root) if upload.unpack else await self._hashed(upload)
        except AiwmError as error:
            if error.retryable:
                raise
            await self._remove(root)
            await self._end(model, rules.failed(content, error.message))
            return
        await self._end(model, rules.ready(content, files, root))

    async def _end(self, model: ModelRecord, outcome: ModelContent) -> None:
        now = self._clock.now()
        event = rules.upload_event(model, outcome, iso(now))

        def finish(current: ModelContent) -> ModelContent:
            if current.upload_id != outcome.upload_id or current.download_status is not DownloadStatus.DOWNLOADING:
                return current
            kept = {name: getattr(current, name) for name in ("version", "outbox", "outbox_since", "facts_told")}
            return outcome.model_copy(update=kept).telling(QUEUE, "service.event", event, at=now)

        await self._contents.update(model.id, finish)
        self._relay.set()
        log.info("upload ended", extra={"modelId": model.id, "status": outcome.download_status.value})

    async def _hashed(self, upload: UploadRecord) -> list[ModelFile]:
        files: list[ModelFile] = []
        done = 0
        for target in upload.files:
            files.append(await self._hash(target))
            done += target.size
            await self._progress(upload, done, len(files))
        return files

    async def _hash(self, target: UploadTarget) -> ModelFile:
        total, size = hashlib.sha256(), 0
        async for chunk in self._objects.get(target.key):
            await asyncio.to_thread(total.update, chunk)
            size += len(chunk)
        found = total.hexdigest()
        if size != target.size:
            raise Invalid(
                f"cannot use {target.path!r}: {size} bytes came, {target.size} were announced", code="SIZE_MISMATCH"
            )
        if target.sha256 is not None and found != target.sha256:
            raise Invalid(
                f"cannot use {target.path!r}: its hash is {found}, not as announced", code="CHECKSUM_MISMATCH"
            )
        return ModelFile(path=target.path, size=size, sha256=found)

    async def _progress(self, upload: UploadRecord, done: int, files: int) -> None:
        total = sum(file.size for file in upload.files)
        if total < _PROGRESS_BYTES:
            return
        progress = Progress(bytes_done=done, bytes_total=total, files=files)
        await self._contents.update(upload.model_id, lambda each: each.model_copy(update={"progress": progress}))

    async def _unpacked(self, upload: UploadRecord, root: str) -> list[ModelFile]:
        archive = upload.files[0]
        await self._hash(archive)
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            local = Path(folder) / Path(archive.path).name
            with local.open("wb") as out:
                async for chunk in self._objects.get(archive.key):
                    await asyncio.to_thread(out.write, chunk)
            inside = Path(folder) / "files"
            inside.mkdir()
            paths = await asyncio.to_thread(unpack, local, inside, max_bytes=_MAX_UNPACKED)
            return [await self._store_file(inside, path, root) for path in paths]

    async def _store_file(self, folder: Path, path: Path, root: str) -> ModelFile:
        total, size = hashlib.sha256(), 0

        async def content() -> AsyncIterator[bytes]:
            nonlocal size
            with (folder / path).open("rb") as source:
                while chunk := await asyncio.to_thread(source.read, _CHUNK):
                    total.update(chunk)
                    size += len(chunk)
                    yield chunk

        await self._objects.put(f"{root}/{path.as_posix()}", content())
        return ModelFile(path=path.as_posix(), size=size, sha256=total.hexdigest())

    async def _remove(self, root: str) -> None:
        try:
            blobs = await self._objects.below(root)
        except NotFound:
            return
        await self._objects.delete([blob.key for blob in blobs])
