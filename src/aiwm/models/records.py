"""What is stored of a model: what users set, what is known of its files, and uploads under way."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from aiwm.infra.store.outbox import TellingRecord
from aiwm.infra.store.records import OwnedRecord, StoredRecord
from aiwm.protocol.base import Timestamp
from aiwm.protocol.resources.models import Model, ModelFile, Progress
from aiwm.protocol.states import DownloadStatus, Framework, ModelSource, TaskType

MODELS = "models"
CONTENTS = "modelContents"
UPLOADS = "uploads"


class ModelRecord(OwnedRecord):
    """The wish: written by users alone."""

    name: str
    description: str
    source: ModelSource
    huggingface_repo: str | None = None
    model_version: str
    framework: Framework
    task_type: TaskType
    revision: str | None = None


class ModelContent(TellingRecord):
    """What is known of the files: written by uploads and the worker. `upload_id` is the upload being verified."""

    download_status: DownloadStatus = DownloadStatus.PENDING
    upload_id: str | None = None
    storage_path: str = ""
    files: list[ModelFile] = []
    size: int = 0
    progress: Progress = Progress()
    error: str | None = None


class UploadTarget(BaseModel):
    """One file of an upload: where it goes, and the object store's own upload behind it."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    path: str
    size: int
    sha256: str | None = None
    key: str
    multipart_id: str


class UploadRecord(StoredRecord):
    model_id: str
    org_id: str | None = None
    created_by: str | None = None
    files: list[UploadTarget]
    unpack: bool
    part_size: int
    expires_at: Timestamp
    completed: bool = False


def model_view(record: ModelRecord, content: ModelContent) -> Model:
    """Wish and observation as one resource."""
    return Model.model_validate(
        {
            **record.base(),
            "model_id": record.id,
            "name": record.name,
            "description": record.description,
            "source": record.source,
            "huggingface_repo": record.huggingface_repo,
            "version": record.model_version,
            "framework": record.framework,
            "task_type": record.task_type,
            "size": content.size,
            "storage_path": content.storage_path,
            "download_status": content.download_status,
            "progress": content.progress,
            "revision": record.revision,
            "files": content.files,
            "error": content.error,
        }
    )
