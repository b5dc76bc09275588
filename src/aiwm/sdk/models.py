"""Models: registered AI models and their files."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiwm.protocol.errors import Conflict
from aiwm.protocol.resources.models import Model, ModelFile
from aiwm.protocol.states import DownloadStatus
from aiwm.sdk.nouns import Noun, items_as
from aiwm.sdk.uploads import OnProgress, Sender


class Models(Noun[Model]):
    """`client.models`."""

    path, noun, kind = "/api/v1/models", "model", Model

    async def files(self, model_id: str) -> list[ModelFile]:
        """What the model consists of: paths, sizes in bytes, hashes."""
        return items_as(ModelFile, await self._transport.request("GET", self.at(model_id, "files")))

    async def upload(
        self,
        model_id: str,
        source: Path | str,
        *,
        unpack: bool = False,
        concurrency: int = 4,
        on_progress: OnProgress | None = None,
    ) -> Model:
        """Sends a folder or a file; the model is then being verified, see `wait_ready`.

        With `unpack`, `source` is one archive (.tar, .tar.gz, .tar.zst, .zip) that the server unpacks. A failed or
        cancelled upload is abandoned on the server. Raises `Invalid` when there is nothing to send.
        """
        sender = Sender(self._transport, self.at(model_id, "uploads"), concurrency, on_progress)
        return await sender.send(Path(source), unpack=unpack)

    async def wait_ready(
        self,
        model_id: str,
        *,
        timeout: float = 600.0,
        on_change: Callable[[Model], Awaitable[None] | None] | None = None,
    ) -> Model:
        """Waits until every file's hash is verified. Raises `Conflict` with the reason when it failed, `TimedOut`."""
        ended = (DownloadStatus.READY, DownloadStatus.FAILED)
        model = await self._until(
            model_id,
            lambda each: each.download_status in ended,
            timeout=timeout,
            what="ready",
            on_change=on_change,
        )
        if model.download_status is DownloadStatus.FAILED:
            raise Conflict(model.error or f"cannot use model {model.name}: it failed", code="MODEL_FAILED")
        return model
