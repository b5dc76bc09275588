"""Getting an image onto this node: allowed, complete, with progress, and with a reason when it does not come."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiwm.daemon.launchers.docker_api import DockerApi, Inspected, Refused
from aiwm.daemon.launchers.docker_credentials import registry_header
from aiwm.daemon.launchers.docker_images import AllowList, Image, parse_image
from aiwm.daemon.launchers.port import Tell
from aiwm.daemon.replicas import shorten
from aiwm.protocol.errors import AiwmError, Unavailable

_MIB = 2**20
_TELL_SECONDS = 1.0
_PATIENCE_SECONDS = 60.0
_MISSING = re.compile(r"manifest unknown|manifest for .* not found|not found: manifest|name unknown")
_REFUSED = re.compile(r"unauthorized|authentication required|no basic auth|denied|forbidden", re.IGNORECASE)
_FULL = "no space left on device"


@dataclass(slots=True)
class Progress:
    """What a pull has come to, layer by layer, as Docker tells it."""

    image: str
    _layers: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> None:
        layer, detail = str(event.get("id", "")), event.get("progressDetail") or {}
        if event.get("status") == "Downloading" and detail.get("total"):
            self._layers[layer] = int(detail.get("current", 0)), int(detail["total"])
        elif event.get("status") in ("Download complete", "Pull complete") and layer in self._layers:
            total = self._layers[layer][1]
            self._layers[layer] = total, total

    @property
    def words(self) -> str:
        done, total = (sum(each[part] for each in self._layers.values()) for part in (0, 1))
        if not total:
            return f"pulling {self.image}"
        return f"pulling {self.image}: {done // _MIB} MiB of {total // _MIB} MiB"


class Images:
    """The images of one Docker; `patience` is how many seconds a registry may send nothing."""

    def __init__(
        self, api: DockerApi, allowed: AllowList, auth_file: str = "", patience: float = _PATIENCE_SECONDS
    ) -> None:
        self._api, self._allowed = api, allowed
        self._auth_file, self._patience = auth_file, patience

    def check(self, reference: str) -> Image:
        """The image, if this node runs it. Raises `Invalid` or `Denied`."""
        image = parse_image(reference)
        self._allowed.check(image, reference)
        return image

    async def provide(self, reference: str, tell: Tell) -> None:
        """Raises `AiwmError`: `IMAGE_NOT_ALLOWED`, `NETWORK_ERROR`, `RESOURCE_EXHAUSTED`, `CONTAINER_START_FAILED`."""
        image = self.check(reference)
        if await self._here(reference, image):
            return
        await self._pull(reference, image, tell)
        if not await self._here(reference, image):
            raise AiwmError(
                f"cannot run image {reference}: what its registry sent has another digest",
                code="CONTAINER_START_FAILED",
            )

    async def _here(self, reference: str, image: Image) -> bool:
        found = await self._api.image(reference)
        if found is None or not image.digest:
            return found is not None
        named = [str(each).rpartition("@")[2] for each in found.get("RepoDigests") or []]
        return image.digest in (*named, found["Id"])

    async def _pull(self, reference: str, image: Image, tell: Tell) -> None:
        headers = registry_header(self._auth_file, image)
        # Without a tag Docker pulls every one there is.
        asked = reference if image.tag or image.digest else f"{reference}:latest"
        progress, told = Progress(reference), 0.0
        await tell(progress.words)
        try:
            async with self._api.pull(asked, headers, self._patience) as events:
                while (event := await self._next(events)) is not None:
                    if "error" in event:
                        raise _failure(reference, str(event["error"]))
                    progress.take(event)
                    if time.monotonic() - told >= _TELL_SECONDS:
                        told = time.monotonic()
                        await tell(progress.words)
        except Refused as error:
            raise _failure(reference, error.words) from error
        except Unavailable as error:
            if error.code != "TIMEOUT":
                raise
            raise Unavailable(
                f"cannot pull {reference}: its registry sent nothing for {self._patience:.0f} s", code="NETWORK_ERROR"
            ) from error

    async def _next(self, events: AsyncIterator[Inspected]) -> Inspected | None:
        async with asyncio.timeout(self._patience):
            return await anext(events, None)


def _failure(reference: str, message: str) -> AiwmError:
    if _MISSING.search(message):
        return AiwmError(
            f"cannot pull {reference}: its registry has no such image; check the name and the tag",
            code="CONTAINER_START_FAILED",
        )
    if _REFUSED.search(message):
        return AiwmError(
            f"cannot pull {reference}: its registry wants other credentials, or has no such image; name a file of "
            "`docker login` that holds them in AIWM_REGISTRY_AUTH_FILE on the node",
            code="CONTAINER_START_FAILED",
        )
    if _FULL in message:
        return AiwmError(f"cannot pull {reference}: the disk of Docker's data is full", code="RESOURCE_EXHAUSTED")
    return Unavailable(shorten(f"cannot pull {reference}: {message}"), code="NETWORK_ERROR")
