"""Models' files on this node: fetched once per digest, verified while they arrive, complete or not there at all."""

import asyncio
import contextlib
import hashlib
import logging
import shutil
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from aiwm.daemon.credential import Credential
from aiwm.daemon.disk import disk_errors
from aiwm.kit.backoff import delays
from aiwm.kit.clock import Clock
from aiwm.protocol.errors import AiwmError, Invalid, Unavailable
from aiwm.protocol.node_channel import Artifact, ArtifactFile

log = logging.getLogger(__name__)

_CHUNK = 1 << 20
_ATTEMPTS = 5
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
_PROGRESS_SECONDS = 1.0
_AT_ONCE = 4

Progress = Callable[[int, int, int], Awaitable[None]]


class Artifacts:
    """The cache below `root`; relative URLs are the controller's at `base_url`, and only those get the token.

    `trust` judges the certificates of https servers; None: as the system does.
    """

    def __init__(
        self, root: Path, base_url: str, credential: Credential, clock: Clock, *, trust: ssl.SSLContext | None = None
    ) -> None:
        self._root = root
        self._base_url, self._credential = base_url, credential
        self._clock, self._trust = clock, trust
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._seats = asyncio.Semaphore(_AT_ONCE)

    def cached(self, artifact: Artifact) -> bool:
        """Whether every file is here and verified."""
        return (self._root / artifact.digest).is_dir()

    async def fetch(self, artifact: Artifact, progress: Progress) -> Path:
        """The folder with the artifact's files.

        `progress(bytes done, bytes in all, files done)` is called once a second at most. Raises `AiwmError` with
        `COMMAND_INVALID`, `CHECKSUM_MISMATCH`, `NETWORK_ERROR` or `RESOURCE_EXHAUSTED`.
        """
        complete = self._root / artifact.digest
        async with self._locks.setdefault(artifact.digest, asyncio.Lock()):
            if not complete.is_dir():
                # A few at once: many would share the same line and disk, and each hold files and memory.
                async with self._seats:
                    await self._fetch(artifact, complete, progress)
            return complete

    async def _fetch(self, artifact: Artifact, complete: Path, progress: Progress) -> None:
        partial = self._root / f"{artifact.digest}.partial"
        try:
            with disk_errors(f"cannot keep model {artifact.name} on this node"):
                await self._fill(artifact, partial, progress)
                partial.rename(complete)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    async def _fill(self, artifact: Artifact, partial: Path, progress: Progress) -> None:
        targets = [(file, partial / safe_path(file.path)) for file in artifact.files]
        total = sum(file.size for file in artifact.files)
        _make_room(artifact, partial, total)
        told = self._clock.monotonic()
        done = 0
        # Signed URLs are signed letter by letter: nothing may quote them anew.
        connector = aiohttp.TCPConnector(ssl=self._trust or True)
        async with aiohttp.ClientSession(timeout=_TIMEOUT, requote_redirect_url=False, connector=connector) as session:
            for count, (file, target) in enumerate(targets):
                target.parent.mkdir(parents=True, exist_ok=True)
                before = done
                async for size in self._fetch_file(session, file, target):
                    done = before + size
                    if self._clock.monotonic() - told >= _PROGRESS_SECONDS:
                        told = self._clock.monotonic()
                        await progress(done, total, count)
        await progress(total, total, len(targets))

    async def _fetch_file(
        self, session: aiohttp.ClientSession, file: ArtifactFile, target: Path
    ) -> AsyncGenerator[int, None]:
        """Yields how many bytes of the file are here; tries again after network errors."""
        if not file.urls:
            raise Invalid(f"cannot fetch {file.path}: the command names no URL for it", code="COMMAND_INVALID")
        pauses, reason = delays(1.0, 10.0), ""
        hopeful = list(file.urls)
        for attempt in range(_ATTEMPTS):
            for url in list(hopeful):
                try:
                    async with contextlib.aclosing(self._stream(session, url, file, target)) as sizes:
                        async for size in sizes:
                            yield size
                except (aiohttp.ClientError, TimeoutError) as error:
                    reason = _reason(error)
                    log.warning("cannot fetch %s from %s: %s", file.path, urlsplit(url).netloc, reason)
                    if _final(error):
                        hopeful.remove(url)
                else:
                    return
            if not hopeful:
                break
            if attempt < _ATTEMPTS - 1:
                await self._clock.sleep(next(pauses))
        raise Unavailable(f"cannot fetch {file.path}: {reason}", code="NETWORK_ERROR")

    async def _stream(
        self, session: aiohttp.ClientSession, url: str, file: ArtifactFile, target: Path
    ) -> AsyncGenerator[int, None]:
        digest, size = hashlib.sha256(), 0
        headers = {} if urlsplit(url).scheme else {"Authorization": f"Bearer {self._credential.token}"}
        draft = target.with_name(f"{target.name}.part")
        source = URL(urljoin(f"{self._base_url}/", url), encoded=True)
        async with session.get(source, headers=headers, raise_for_status=True) as answer:
            with draft.open("wb") as out:
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    size += len(chunk)
                    if size > file.size:
                        break
                    await asyncio.to_thread(_take, out.write, digest.update, chunk)
                    yield size
        if size != file.size or digest.hexdigest() != file.sha256:
            raise AiwmError(
                f"cannot use {file.path}: what arrived is not what was registered "
                f"({size} bytes, sha256 {digest.hexdigest()}; expected {file.size}, {file.sha256})",
                code="CHECKSUM_MISMATCH",
            )
        draft.replace(target)


def _make_room(artifact: Artifact, partial: Path, total: int) -> None:
    partial.mkdir(parents=True, exist_ok=True, mode=0o700)
    if total > (free := shutil.disk_usage(partial).free):
        raise AiwmError(
            f"cannot fetch model {artifact.name}: it needs {total} bytes and this node's disk has {free}",
            code="RESOURCE_EXHAUSTED",
        )


def safe_path(path: str) -> PurePosixPath:
    """`path` as a relative path that stays below its root. Raises `Invalid`."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(letter in path for letter in "\\\0"):
        raise Invalid(f"cannot fetch {path!r}: the path leads out of the model's folder", code="COMMAND_INVALID")
    return PurePosixPath(path)


def _take(write: Callable[[bytes], object], update: Callable[[bytes], object], chunk: bytes) -> None:
    write(chunk)
    update(chunk)


def _final(error: BaseException) -> bool:
    """Whether asking the same URL again is of no use."""
    return isinstance(error, aiohttp.ClientResponseError) and 400 <= error.status < 500 and error.status != 429


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return f"HTTP {error.status}"
    return str(error) or type(error).__name__
