"""Sending a model's files: hash them, ask where each part goes, PUT the parts there, and say that all are there."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from aiwm.kit.backoff import delays
from aiwm.protocol.errors import AiwmError, Invalid, Unavailable
from aiwm.protocol.resources.models import (
    CompletedFile,
    CompletedPart,
    Model,
    Upload,
    UploadComplete,
    UploadCreate,
    UploadFile,
)
from aiwm.sdk.failures import error_of, reaching
from aiwm.sdk.transport import Transport, read_as

_CHUNK = 2**20
FIRST_PAUSE_SECONDS = 0.5
_TRIES = 5
_ABANDON_SECONDS = 5.0
_STALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """How far an upload is, in bytes: first everything is hashed, then everything is sent."""

    phase: Literal["hashing", "sending"]
    bytes_done: int
    bytes_total: int
    files: int


OnProgress = Callable[[UploadProgress], None]


@dataclass(frozen=True, slots=True)
class _Part:
    """One stretch of one local file and where it goes."""

    file: Path
    path: str
    number: int
    offset: int
    size: int
    url: str


def local_files(source: Path) -> dict[str, Path]:
    """What `source` holds: paths relative to it (the name alone for a file), sorted. Raises `Invalid`.

    Python's own `__pycache__` folders are left out: they are made anew wherever the model runs.
    """
    if source.is_file():
        return {source.name: source}
    if not source.is_dir():
        raise Invalid(f"cannot upload {source}: there is no such file or folder", code="UPLOAD_SOURCE_MISSING")
    found = {
        file.relative_to(source).as_posix(): file
        for file in sorted(source.rglob("*"))
        if file.is_file() and "__pycache__" not in file.relative_to(source).parts
    }
    if not found:
        raise Invalid(f"cannot upload {source}: the folder holds no files", code="UPLOAD_EMPTY")
    return found


class Sender:
    """One upload, from local files to an accepted model."""

    def __init__(self, transport: Transport, path: str, concurrency: int, on_progress: OnProgress | None) -> None:
        self._transport, self._path = transport, path
        self._slots = asyncio.Semaphore(concurrency)
        self._on_progress = on_progress
        self._done = self._total = self._files = 0
        self._phase: Literal["hashing", "sending"] = "hashing"

    async def send(self, source: Path, *, unpack: bool) -> Model:
        """Sends `source`; abandons the upload when anything goes wrong."""
        files = await asyncio.to_thread(local_files, source)
        announced = await self._hash_all(files)
        params = UploadCreate(files=announced, unpack=unpack)
        upload = read_as(Upload, await self._transport.request("POST", self._path, json=params))
        try:
            self._begin("sending", self._total, len(files))
            completed = await self._send_all(upload, files, {each.path: each.size for each in announced})
            return read_as(
                Model,
                await self._transport.request("POST", f"{self._path}/{upload.upload_id}/complete", json=completed),
            )
        except BaseException:
            await self._abandon(upload)
            raise

    async def _hash_all(self, files: dict[str, Path]) -> list[UploadFile]:
        try:
            sizes = {path: file.stat().st_size for path, file in files.items()}
            self._begin("hashing", sum(sizes.values()), len(files))
            hashes = {path: await self._hash(file) for path, file in files.items()}
        except OSError as error:
            sentence = f"cannot read {error.filename}: {error.strerror}"
            raise Invalid(sentence, code="UPLOAD_SOURCE_UNREADABLE") from error
        return [UploadFile(path=path, size=sizes[path], sha256=hashes[path]) for path in files]

    async def _hash(self, file: Path) -> str:
        total = hashlib.sha256()
        with file.open("rb") as source:
            while chunk := await asyncio.to_thread(source.read, _CHUNK):
                await asyncio.to_thread(total.update, chunk)
                self._advance(len(chunk))
        return total.hexdigest()

    async def _send_all(self, upload: Upload, files: dict[str, Path], sizes: dict[str, int]) -> UploadComplete:
        parts = [
            _Part(
                file=files[target.path],
                path=target.path,
                number=part.part_number,
                offset=(offset := (part.part_number - 1) * upload.part_size),
                size=min(upload.part_size, sizes[target.path] - offset),
                url=part.url,
            )
            for target in upload.files
            for part in target.parts
        ]
        etags: dict[str, list[CompletedPart]] = {target.path: [] for target in upload.files}
        try:
            async with asyncio.TaskGroup() as group:
                sent = [(part, group.create_task(self._send_part(upload, part))) for part in parts]
        except BaseExceptionGroup as failures:
            raise _first(failures) from failures
        for part, task in sent:
            etags[part.path].append(CompletedPart(part_number=part.number, etag=task.result()))
        return UploadComplete(files=[CompletedFile(path=path, parts=each) for path, each in etags.items()])

    async def _send_part(self, upload: Upload, part: _Part) -> str:
        """PUTs one part, again after failures that may pass and with a fresh URL when the old one is refused."""
        url, waits = part.url, delays(FIRST_PAUSE_SECONDS, 10.0)
        async with self._slots:
            for attempt in range(1, _TRIES + 1):
                before = self._done
                try:
                    return await self._put(url, part)
                except AiwmError as error:
                    self._advance(before - self._done)
                    refused = error.status in (401, 403)
                    if attempt == _TRIES or not (error.retryable or refused or error.status == 500):
                        raise
                    if refused:
                        url = await self._fresh_url(upload, part)
                await asyncio.sleep(next(waits))
        raise AssertionError("the last try returns or raises")

    async def _put(self, url: str, part: _Part) -> str:
        target = urljoin(f"{self._transport.url}/", url)
        host = f"{URL(target).scheme}://{URL(target).authority}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_STALL_SECONDS)
        with reaching(host):
            async with self._transport.session.put(
                URL(target, encoded=True),
                data=self._content(part) if part.size else b"",
                headers={"Content-Length": str(part.size)},
                skip_auto_headers=("Content-Type",),
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                if answer.status >= 300:
                    raise error_of(answer.status, await answer.read(), None, f"PUT part {part.number} to {host}")
                if not (etag := answer.headers.get("ETag", "")):
                    raise Unavailable(f"cannot keep part {part.number} of {part.path}: {host} answered no ETag")
                return etag

    async def _content(self, part: _Part) -> AsyncIterator[bytes]:
        left = part.size
        with part.file.open("rb") as source:
            source.seek(part.offset)
            while left:
                chunk = await asyncio.to_thread(source.read, min(_CHUNK, left))
                if not chunk:
                    raise Invalid(f"cannot upload {part.file}: it became shorter meanwhile", code="UPLOAD_CHANGED")
                left -= len(chunk)
                yield chunk
                self._advance(len(chunk))

    async def _fresh_url(self, upload: Upload, part: _Part) -> str:
        path = f"{self._path}/{upload.upload_id}"
        renewed = read_as(Upload, await self._transport.request("GET", path))
        urls = {(file.path, each.part_number): each.url for file in renewed.files for each in file.parts}
        return urls[part.path, part.number]

    async def _abandon(self, upload: Upload) -> None:
        """Frees what was sent; when that fails too, the server lets the upload expire."""
        with contextlib.suppress(AiwmError, TimeoutError):
            async with asyncio.timeout(_ABANDON_SECONDS):
                await self._transport.request("DELETE", f"{self._path}/{upload.upload_id}")

    def _begin(self, phase: Literal["hashing", "sending"], total: int, files: int) -> None:
        self._phase, self._done, self._total, self._files = phase, 0, total, files
        self._advance(0)

    def _advance(self, by: int) -> None:
        self._done += by
        if self._on_progress is not None:
            self._on_progress(UploadProgress(self._phase, self._done, self._total, self._files))


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended the group, one of possibly many alike."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
