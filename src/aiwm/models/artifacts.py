"""What a node is told to fetch: a ready model's files with their hashes, and where each may be had."""

from aiwm.infra.objects.port import Objects
from aiwm.infra.objects.tickets import BlobTickets
from aiwm.models import rules
from aiwm.models.records import ModelContent, ModelRecord
from aiwm.protocol.node_channel import Artifact, ArtifactFile

_URL_SECONDS = 6 * 3600


class Artifacts:
    """Each file may be had from the object store itself and, where that is out of reach, through the controller."""

    def __init__(self, objects: Objects, tickets: BlobTickets, base_url: str) -> None:
        self._objects, self._tickets, self._base_url = objects, tickets, base_url

    def of(self, model: ModelRecord, content: ModelContent) -> Artifact:
        """The artifact of a ready model; its URLs are good for six hours."""
        files = []
        for file in content.files:
            key = f"{content.storage_path}/{file.path}"
            direct = self._objects.get_url(key, expires=_URL_SECONDS)
            through = f"{self._base_url}/api/v1/blobs/{self._tickets.sign('GET', key, expires=_URL_SECONDS)}"
            urls = [direct] if direct.startswith(f"{self._base_url}/") else [direct, through]
            files.append(ArtifactFile(path=file.path, size=file.size, sha256=file.sha256, urls=urls))
        return Artifact(
            model_id=model.id,
            digest=rules.digest(content.files),
            name=model.name,
            framework=model.framework.value,
            task_type=model.task_type.value,
            files=files,
        )
