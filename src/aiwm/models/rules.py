"""What a model's files may be called, how they are cut into parts, and how their state moves: pure."""

import hashlib
import math
import re
from collections.abc import Iterable
from datetime import datetime

from aiwm.models.records import ModelContent, ModelRecord
from aiwm.protocol.errors import Conflict, Invalid
from aiwm.protocol.resources.models import ModelFile, Progress, UploadFile
from aiwm.protocol.states import DownloadStatus, ModelSource

PART_SIZE = 16 * 2**20
MAX_PARTS = 10_000
MAX_MODEL_BYTES = 2**44
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip")

_SEGMENT = re.compile(r"[^\x00-\x1f\x7f\\/:]{1,255}")


def check_files(files: list[UploadFile], *, unpack: bool) -> None:
    """Refuses paths that could leave the model's folder, doubles, nothing at all, and what does not fit `unpack`."""
    paths = [file.path for file in files]
    for path in paths:
        if any(part in (".", "..") or not _SEGMENT.fullmatch(part) for part in path.split("/")):
            raise Invalid(
                f"cannot upload {path!r}: a path is relative, with plain names between its slashes",
                code="FILE_PATH_INVALID",
            )
    if len(set(paths)) != len(paths):
        raise Invalid("cannot upload: the same path is named twice", code="FILE_PATH_DUPLICATE")
    if _clashing(set(paths)):
        raise Invalid("cannot upload: one path is both a file and a folder", code="FILE_PATH_DUPLICATE")
    total = sum(file.size for file in files)
    if total == 0:
        raise Invalid("cannot upload: all files are empty", code="UPLOAD_EMPTY")
    if total > MAX_MODEL_BYTES:
        raise Invalid("cannot upload: more than 16 TiB in one model", code="UPLOAD_TOO_LARGE")
    if unpack and (len(files) != 1 or not paths[0].endswith(ARCHIVES)):
        raise Invalid(
            f"cannot unpack: send exactly one file ending in {', '.join(ARCHIVES)}", code="ARCHIVE_UNSUPPORTED"
        )


def _clashing(paths: set[str]) -> bool:
    folders = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
    return bool(folders & paths)


def upload_root(model_id: str, upload_id: str, *, archive: bool = False) -> str:
    """The folder in the object store that holds an upload's files, or the archive they are to be unpacked from."""
    return f"models/{model_id}/{upload_id}/{'archive' if archive else 'files'}"


def part_size_of(files: list[UploadFile]) -> int:
    """Bytes in a part: 16 MiB, or as many more as keep the largest file within the part limit."""
    largest = max(file.size for file in files)
    return max(PART_SIZE, math.ceil(largest / MAX_PARTS / PART_SIZE) * PART_SIZE)


def part_count(size: int, part_size: int) -> int:
    """How many parts a file has; an empty file has one, empty."""
    return max(math.ceil(size / part_size), 1)


def check_uploadable(record: ModelRecord, content: ModelContent) -> None:
    """Only a custom model that has no files yet, or whose last upload failed, takes an upload."""
    if record.source is not ModelSource.CUSTOM:
        raise Conflict("cannot upload: this model's files come from HuggingFace", code="MODEL_SOURCE_MISMATCH")
    if content.download_status is DownloadStatus.READY:
        raise Conflict("cannot upload: this model is ready; create another version", code="MODEL_READY")
    if content.download_status is DownloadStatus.DOWNLOADING:
        raise Conflict("cannot upload: an upload is being verified; wait for its end", code="MODEL_BUSY")


def verifying(content: ModelContent, upload_id: str, total: int) -> ModelContent:
    """All parts are there; hashes are not known yet."""
    return content.model_copy(
        update={
            "download_status": DownloadStatus.DOWNLOADING,
            "upload_id": upload_id,
            "progress": Progress(bytes_done=0, bytes_total=total, files=0),
            "error": None,
        }
    )


def ready(content: ModelContent, files: list[ModelFile], storage_path: str) -> ModelContent:
    """Every hash has been verified."""
    size = sum(file.size for file in files)
    return content.model_copy(
        update={
            "download_status": DownloadStatus.READY,
            "files": sorted(files, key=lambda file: file.path),
            "size": size,
            "storage_path": storage_path,
            "progress": Progress(bytes_done=size, bytes_total=size, files=len(files)),
            "error": None,
        }
    )


def failed(content: ModelContent, reason: str) -> ModelContent:
    """The files could not be taken; nothing of them is kept."""
    return content.model_copy(
        update={"download_status": DownloadStatus.FAILED, "error": reason, "files": [], "size": 0, "storage_path": ""}
    )


def digest(files: Iterable[ModelFile]) -> str:
    """One hash over a set of files, whatever their order: names the set in a node's cache."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda each: each.path):
        total.update(f"{file.path}\0{file.size}\0{file.sha256}\n".encode())
    return total.hexdigest()


def upload_event(record: ModelRecord, content: ModelContent, at: str) -> dict[str, object]:
    """The notification for an upload's end."""
    good = content.download_status is DownloadStatus.READY
    about: dict[str, object] = {"modelId": record.id, "modelName": record.name, "status": content.download_status.value}
    if content.error:
        about["error"] = content.error
    return {
        "event": "service.event",
        "data": {
            "name": "model.upload.completed" if good else "model.upload.failed",
            "data": about,
            "metadata": {"correlationId": record.correlation_id, "orgId": record.owner.org_id, "timestamp": at},
            "recipients": {"userIds": [record.created_by]} if record.created_by else {},
        },
    }


def expired(expires_at: datetime, now: datetime) -> bool:
    """Whether an upload's time is over."""
    return now >= expires_at
