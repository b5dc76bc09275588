"""Jobs: what the worker process is asked to do, by queue."""

from aiwm.protocol.base import Id, Wire

MODELS_QUEUE = "models"
VERIFY_UPLOAD = "model.verifyUpload"
REMOVE_FILES = "model.removeFiles"


class VerifyUpload(Wire):
    """Hash (and first unpack, where asked) everything of an upload, then make the model ready."""

    model_id: Id
    upload_id: Id
    correlation_id: str | None = None


class RemoveFiles(Wire):
    """Remove everything the object store holds of a deleted model."""

    model_id: Id
    correlation_id: str | None = None
