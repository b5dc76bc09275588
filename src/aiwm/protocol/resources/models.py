"""Model: a registered AI model; its files live in the object store."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from aiwm.protocol.base import Name, Params, Short, Text, Timestamp, View, Wire
from aiwm.protocol.resources.base import Metadata, Patch, Resource
from aiwm.protocol.states import DownloadStatus, Framework, ModelSource, TaskType

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
HuggingFaceRepo = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}$")]

MAX_FILES = 10_000
MAX_FILE_SIZE = 2**43


class ModelFile(Wire):
    """One file of a model: path relative to the model's root, size in bytes, hash in hex."""

    path: RelativePath
    size: Annotated[int, Field(ge=0, le=MAX_FILE_SIZE)]
    sha256: Sha256


class Progress(Wire):
    """Of a download or a verification. `bytesTotal` is null until it is known; `files` are the files done."""

    bytes_done: int = 0
    bytes_total: int | None = None
    files: int = 0


class Model(Resource):
    model_id: str
    name: str
    description: str
    source: ModelSource
    huggingface_repo: str | None
    version: str
    framework: Framework
    task_type: TaskType
    size: int
    storage_path: str
    download_status: DownloadStatus
    progress: Progress
    revision: str | None
    files: list[ModelFile]
    error: str | None


class ModelCreate(Params):
    """`shared` gives it to all organizations; only universe roles may."""

    name: Name
    shared: bool = False
    description: Text = ""
    source: ModelSource = ModelSource.CUSTOM
    huggingface_repo: HuggingFaceRepo | None = None
    version: Short = "1"
    framework: Framework = Framework.CUSTOM
    task_type: TaskType = TaskType.CUSTOM
    revision: Short | None = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _source_from_repo(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("huggingfaceRepo") and "source" not in values:
            return {**values, "source": ModelSource.HUGGINGFACE}
        return values

    @model_validator(mode="after")
    def _repo_where_needed(self) -> Self:
        if (self.source is ModelSource.HUGGINGFACE) != (self.huggingface_repo is not None):
            raise ValueError("huggingfaceRepo is required when source is huggingface, and only then")
        return self


class ModelPatch(Patch):
    name: Name = ""
    description: Text = ""
    framework: Framework = Framework.CUSTOM
    task_type: TaskType = TaskType.CUSTOM
    metadata: Metadata = Field(default_factory=dict)


class UploadFile(Params):
    path: RelativePath
    size: Annotated[int, Field(ge=0, le=MAX_FILE_SIZE)]
    sha256: Sha256 | None = None


class UploadCreate(Params):
    files: Annotated[list[UploadFile], Field(min_length=1, max_length=MAX_FILES)]
    unpack: bool = False


class UploadPart(View):
    """Where one part goes: PUT its bytes to `url`, keep the answer's ETag. `etag` is set once the part is there."""

    part_number: int
    url: str
    etag: str | None = None


class UploadFileParts(View):
    path: str
    parts: list[UploadPart]


class Upload(View):
    """An upload under way. Every part but a file's last holds `partSize` bytes."""

    upload_id: str
    part_size: int
    files: list[UploadFileParts]
    expires_at: Timestamp


class CompletedPart(Params):
    part_number: Annotated[int, Field(ge=1, le=10_000)]
    etag: Short


class CompletedFile(Params):
    path: RelativePath
    parts: Annotated[list[CompletedPart], Field(min_length=1, max_length=10_000)]


class UploadComplete(Params):
    files: Annotated[list[CompletedFile], Field(min_length=1, max_length=MAX_FILES)]
