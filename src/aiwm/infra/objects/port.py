"""The objects port: immutable blobs under `/`-separated keys, streamed both ways, with multipart uploads by URL.

Keys are relative, without empty, `.` or `..` segments (`Invalid` otherwise). A blob appears whole or not at all.
Sizes are bytes, expiries seconds.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectStat:
    key: str
    size: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart upload, numbered from 1; `etag` without quotes."""

    number: int
    etag: str
    size: int


class Objects(Protocol):
    """Every method raises `Unavailable` when the backend cannot be reached, `NotFound` for a key that is not there."""

    async def put(self, key: str, content: AsyncIterator[bytes]) -> ObjectStat:
        """Streams a blob in with flat memory; nothing is left behind when `content` raises."""
        ...

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The blob's bytes from `start`, at most `length`, in chunks."""
        ...

    async def stat(self, key: str) -> ObjectStat:
        """Size and etag."""
        ...

    async def below(self, prefix: str) -> list[ObjectStat]:
        """Everything below the folder `prefix`, sorted by key."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes blobs; those that are not there are no error."""
        ...

    async def create_upload(self, key: str) -> str:
        """Begins a multipart upload; its id."""
        ...

    def part_url(self, key: str, upload_id: str, number: int, *, expires: int) -> str:
        """Where anyone holding this URL may PUT that one part, until it expires. The answer carries an `ETag`."""
        ...

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        """The parts that are there, by number; `NotFound` for an unknown upload."""
        ...

    async def complete_upload(self, key: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """Makes the blob from `(number, etag)` in order; `Invalid` when a part is missing or its etag differs."""
        ...

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """Forgets the upload and its parts; an unknown one is no error."""
        ...

    def get_url(self, key: str, *, expires: int) -> str:
        """Where anyone holding this URL may GET the blob (with Range), until it expires."""
        ...

    async def ping(self) -> None:
        """Returns when the backend answers."""
        ...

    async def close(self) -> None: ...
