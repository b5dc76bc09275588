"""Objects as files below a folder: one machine's stand-in for S3.

Layout: `blobs/<key>`, `uploads/<uploadId>/{key,<number>-<etag>}`, `drafts/` for what is being written. URLs lead to
the HTTP route that serves them (`<base>/api/v1/blobs/<token>`); the token says what its holder may do. Several
processes may share the folder. A key that is also a folder of another key is a `Conflict` here, as files are.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from aiwm.infra.objects import folder as disk
from aiwm.infra.objects.keys import check_order, checked_key, checked_part
from aiwm.infra.objects.port import ObjectStat, Part
from aiwm.infra.objects.tickets import BlobTickets, Ticket
from aiwm.kit.clock import SystemClock
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import Invalid, NotFound, TooLarge

CHUNK = 2**20
_UPLOAD_ID = re.compile(r"upload-[0-9a-z]{26}")
_PART_FILE = re.compile(r"(\d{1,5})-([0-9a-f]{32})")


class LocalObjects:
    """`root` is made if missing; `url_base` is the public URL without `/api/v1`, asked at each use if it is a call."""

    def __init__(
        self, root: Path, url_base: str | Callable[[], str], secret: bytes, *, tickets: BlobTickets | None = None
    ) -> None:
        self._url_base = url_base
        self._tickets = tickets or BlobTickets([secret], SystemClock())
        self._blobs, self._uploads, self._drafts = root / "blobs", root / "uploads", root / "drafts"
        with disk.disk_errors(f"open the object folder {root}"):
            for each in (self._blobs, self._uploads, self._drafts):
                disk.make_folder(each)
            disk.sweep(self._drafts)

    def path_of(self, key: str) -> Path:
        """The file that holds a blob, whether or not it is there."""
        return self._blobs / checked_key(key)

    async def put(self, key: str, content: AsyncIterator[bytes]) -> ObjectStat:
        target = self.path_of(key)
        with disk.draft(self._drafts) as written:
            await self._write(written, content, what=f"store {key!r}")
            with disk.disk_errors(f"store {key!r}"):
                await asyncio.to_thread(disk.place, written, target)
        return await self.stat(key)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        with disk.disk_errors(f"read {key!r}"):
            try:
                source = await asyncio.to_thread(self.path_of(key).open, "rb")
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise _no_blob(key) from error
        with source:
            source.seek(start)
            left = length
            while left is None or left > 0:
                with disk.disk_errors(f"read {key!r}"):
                    chunk = await asyncio.to_thread(source.read, CHUNK if left is None else min(CHUNK, left))
                if not chunk:
                    return
                left = None if left is None else left - len(chunk)
                yield chunk

    async def stat(self, key: str) -> ObjectStat:
        with disk.disk_errors(f"read {key!r}"):
            found = await asyncio.to_thread(_stat, self.path_of(key), key)
        if found is None:
            raise _no_blob(key)
        return found

    async def below(self, prefix: str) -> list[ObjectStat]:
        with disk.disk_errors(f"list {prefix!r}"):
            return await asyncio.to_thread(_below, self._blobs, checked_key(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        paths = [self.path_of(key) for key in keys]
        with disk.disk_errors("delete objects"):
            await asyncio.to_thread(_delete, paths, self._blobs)

    async def create_upload(self, key: str) -> str:
        checked_key(key)
        upload_id = new_id("upload")
        with disk.disk_errors("begin an upload"):
            await asyncio.to_thread(_begin, self._uploads / upload_id, key)
        return upload_id

    def part_url(self, key: str, upload_id: str, number: int, *, expires: int) -> str:
        token = self._tickets.sign(
            "PUT", checked_key(key), expires=expires, upload_id=upload_id, number=checked_part(number)
        )
        return self._url(token)

    def get_url(self, key: str, *, expires: int) -> str:
        return self._url(self._tickets.sign("GET", checked_key(key), expires=expires))

    async def write_part(self, ticket: Ticket, stream: AsyncIterator[bytes], max_bytes: int) -> str:
        """Stores the part that a verified PUT ticket names; its etag, without quotes.

        Raises `TooLarge` (`PART_TOO_LARGE`) beyond `max_bytes`, `NotFound` when the upload has ended.
        """
        if ticket.upload_id is None or ticket.number is None:
            raise Invalid("cannot write a part: this URL is not one for parts", code="PART_INVALID")
        upload, number = await self._upload(ticket.key, ticket.upload_id), checked_part(ticket.number)
        what = f"store part {number} of {ticket.key!r}"
        with disk.draft(self._drafts) as written:
            etag = await self._write(written, stream, what=what, max_bytes=max_bytes)
            try:
                with disk.disk_errors(what):
                    await asyncio.to_thread(_place_part, written, upload, number, etag)
            except FileNotFoundError as error:
                raise _no_upload(ticket.upload_id) from error
        return etag

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        upload = await self._upload(key, upload_id)
        with disk.disk_errors(f"list the parts of {key!r}"):
            found = await asyncio.to_thread(_parts, upload)
        return [part for _, part in sorted(found.items())]

    async def complete_upload(self, key: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        try:
            upload = await self._upload(key, upload_id)
        except NotFound:
            # A repeat after a lost answer: what it asked for is already so.
            if await asyncio.to_thread(self.path_of(key).is_file):
                return
            raise
        with disk.disk_errors(f"complete {key!r}"), disk.draft(self._drafts) as written:
            files = _matching(upload, await asyncio.to_thread(_parts, upload), parts)
            await asyncio.to_thread(_join, files, written)
            await asyncio.to_thread(disk.place, written, self.path_of(key))
            await asyncio.to_thread(shutil.rmtree, upload, ignore_errors=True)

    async def abort_upload(self, key: str, upload_id: str) -> None:
        with contextlib.suppress(NotFound):
            upload = await self._upload(key, upload_id)
            await asyncio.to_thread(shutil.rmtree, upload, ignore_errors=True)

    async def ping(self) -> None:
        with disk.disk_errors("reach the object folder"):
            await asyncio.to_thread(self._blobs.stat)

    async def close(self) -> None:
        """Nothing is held open."""

    def _url(self, token: str) -> str:
        base = self._url_base if isinstance(self._url_base, str) else self._url_base()
        return f"{base.rstrip('/')}/api/v1/blobs/{token}"

    async def _upload(self, key: str, upload_id: str) -> Path:
        """The upload's folder, if it is an upload of this key."""
        checked_key(key)
        upload = self._uploads / upload_id
        if not _UPLOAD_ID.fullmatch(upload_id):
            raise _no_upload(upload_id)
        try:
            stored = await asyncio.to_thread((upload / "key").read_text)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _no_upload(upload_id) from error
        if stored != key:
            raise _no_upload(upload_id)
        return upload

    async def _write(
        self, target: Path, content: AsyncIterator[bytes], *, what: str, max_bytes: int | None = None
    ) -> str:
        """Streams `content` into a new file, durably; its MD5 in hex, which is what an S3 etag is."""
        digest, size = hashlib.md5(usedforsecurity=False), 0
        with disk.disk_errors(what):
            out = await asyncio.to_thread(target.open, "xb")
        with out:
            async for chunk in content:
                size += len(chunk)
                if max_bytes is not None and size > max_bytes:
                    raise TooLarge(f"cannot {what}: it is larger than {max_bytes} bytes", code="PART_TOO_LARGE")
                with disk.disk_errors(what):
                    await asyncio.to_thread(_write_chunk, out, digest, chunk)
            with disk.disk_errors(what):
                await asyncio.to_thread(disk.finish, out)
        return digest.hexdigest()


def _write_chunk(out: BinaryIO, digest: "hashlib._Hash", chunk: bytes) -> None:
    out.write(chunk)
    digest.update(chunk)


def _stat(path: Path, key: str) -> ObjectStat | None:
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return ObjectStat(key, facts.st_size, f"{facts.st_mtime_ns:x}-{facts.st_size:x}") if path.is_file() else None


def _below(root: Path, prefix: str) -> list[ObjectStat]:
    paths = (path for path in (root / prefix).rglob("*"))
    found = (_stat(path, path.relative_to(root).as_posix()) for path in paths)
    return sorted((each for each in found if each is not None), key=lambda each: each.key)


def _delete(paths: list[Path], root: Path) -> None:
    folders = set()
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()
            folders.add(path.parent)
    for each in folders:
        with contextlib.suppress(FileNotFoundError):
            disk.sync_folder(each)
            disk.prune(each, root)


def _begin(upload: Path, key: str) -> None:
    upload.mkdir()
    with (upload / "key").open("x") as out:
        out.write(key)
        disk.finish(out.buffer)  # type: ignore[arg-type]
    disk.sync_folder(upload)
    disk.sync_folder(upload.parent)


def _place_part(written: Path, upload: Path, number: int, etag: str) -> None:
    older = [path for path in upload.glob(f"{number}-*") if path.name != f"{number}-{etag}"]
    written.replace(upload / f"{number}-{etag}")
    for path in older:
        path.unlink(missing_ok=True)
    disk.sync_folder(upload)


def _parts(upload: Path) -> dict[int, Part]:
    """By number; of two files for one part (a crash while it was replaced) the newer counts."""
    newest: dict[int, tuple[int, Part]] = {}
    for path in upload.iterdir():
        if match := _PART_FILE.fullmatch(path.name):
            facts, number = path.stat(), int(match[1])
            if number not in newest or newest[number][0] < facts.st_mtime_ns:
                newest[number] = (facts.st_mtime_ns, Part(number, match[2], facts.st_size))
    return {number: part for number, (_, part) in newest.items()}


def _matching(upload: Path, there: dict[int, Part], wanted: Sequence[tuple[int, str]]) -> list[Path]:
    """The part files in order; `Invalid` where the wish does not fit what is there."""
    check_order([number for number, _ in wanted])
    for number, etag in wanted:
        if number not in there or there[number].etag != etag.strip('"'):
            raise Invalid(
                f"cannot complete the upload: part {number} is missing or has another etag", code="PART_INVALID"
            )
    return [upload / f"{number}-{there[number].etag}" for number, _ in wanted]


def _join(files: list[Path], target: Path) -> None:
    if len(files) == 1:
        os.link(files[0], target)
        return
    with target.open("xb") as out:
        for each in files:
            disk.append_file(each, out)
        disk.finish(out)


def _no_blob(key: str) -> NotFound:
    return NotFound(f"cannot find object {key!r}", code="OBJECT_NOT_FOUND")


def _no_upload(upload_id: str) -> NotFound:
    return NotFound(
        f"cannot find upload {upload_id[:100]!r}: it was completed, abandoned or never begun", code="UPLOAD_NOT_FOUND"
    )
