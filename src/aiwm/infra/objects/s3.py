"""Objects in a bucket of any server that speaks S3: AWS, MinIO, SeaweedFS, Garage and others.

Blobs go through obstore; multipart uploads by URL, which it cannot sign, through our own presigner. What outsiders are
handed points to the public endpoint, as a signature binds the host; what we call ourselves goes to the inner one.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import islice

import aiohttp
import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from aiwm.infra.objects.keys import check_order, checked_key, checked_part
from aiwm.infra.objects.multipart import MultipartCalls
from aiwm.infra.objects.port import ObjectStat, Part
from aiwm.infra.objects.presign import Presigner
from aiwm.kit.backoff import delays
from aiwm.protocol.errors import NotFound, Unavailable

READ_BYTES = 8 * 2**20
PART_BYTES = 16 * 2**20
PARTS_AT_ONCE = 4
OPEN_TRIES = 5


class S3Objects:
    """One bucket. Made by `S3Objects.open`, as it holds a client session."""

    def __init__(self, session: aiohttp.ClientSession, signer: Presigner, public_endpoint: str) -> None:
        self._session = session
        self._calls = MultipartCalls(session, signer)
        self._public = replace(signer, endpoint=public_endpoint)
        self._store = S3Store(
            signer.bucket,
            endpoint=signer.endpoint,
            region=signer.region,
            access_key_id=signer.access_key,
            secret_access_key=signer.secret_key,
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=3),
                "timeout": timedelta(minutes=2),
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=5)},
        )

    @classmethod
    async def open(cls, signer: Presigner, public_endpoint: str = "") -> "S3Objects":
        """Connects, and makes the bucket if it is missing. Raises `Unavailable`."""
        objects = cls(aiohttp.ClientSession(), signer, public_endpoint or signer.endpoint)
        try:
            await objects._ensure_bucket()
        except BaseException:
            await objects.close()
            raise
        return objects

    async def _ensure_bucket(self) -> None:
        """With some patience: a server that is just starting refuses, or answers 503, for a while."""
        for pause in islice(delays(0.2, 2), OPEN_TRIES):
            try:
                return await self._calls.ensure_bucket()
            except Unavailable:
                await asyncio.sleep(pause)
        await self._calls.ensure_bucket()

    async def put(self, key: str, content: AsyncIterator[bytes]) -> ObjectStat:
        checked_key(key)
        source = _Source(content)
        await source.read_ahead(PART_BYTES)
        with _translated(key, "store", source):
            if source.ended:
                result = await obstore.put_async(self._store, key, source.ahead, use_multipart=False)
            else:
                result = await obstore.put_async(
                    self._store, key, source.chunks(), chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
                )
        return ObjectStat(key, source.size, _bare(result["e_tag"]))

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        size = (await self.stat(key)).size
        end = size if length is None else min(size, start + length)
        while start < end:
            upto = min(end, start + READ_BYTES)
            with _translated(key, "read"):
                chunk = await obstore.get_range_async(self._store, key, start=start, end=upto)
            yield bytes(chunk)
            start = upto

    async def stat(self, key: str) -> ObjectStat:
        checked_key(key)
        with _translated(key, "read"):
            meta = await obstore.head_async(self._store, key)
        return ObjectStat(key, meta["size"], _bare(meta["e_tag"]))

    async def below(self, prefix: str) -> list[ObjectStat]:
        checked_key(prefix)
        found: list[ObjectStat] = []
        with _translated(prefix, "list"):
            async for page in obstore.list(self._store, prefix=f"{prefix}/"):
                found += [ObjectStat(m["path"], m["size"], _bare(m["e_tag"])) for m in page]
        return sorted(found, key=lambda each: each.key)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            checked_key(key)
        if keys:
            with _translated(keys[0], "delete"), contextlib.suppress(FileNotFoundError):
                await obstore.delete_async(self._store, list(keys))

    async def create_upload(self, key: str) -> str:
        return await self._calls.create(checked_key(key))

    def part_url(self, key: str, upload_id: str, number: int, *, expires: int) -> str:
        query = {"partNumber": str(checked_part(number)), "uploadId": upload_id}
        return self._public.url("PUT", checked_key(key), expires=expires, query=query)

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        return await self._calls.parts(checked_key(key), upload_id)

    async def complete_upload(self, key: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        check_order([number for number, _ in parts])
        try:
            await self._calls.complete(checked_key(key), upload_id, parts)
        except NotFound as gone:
            # A repeat after a lost answer: what it asked for is already so.
            try:
                await self.stat(key)
            except NotFound:
                raise gone from None

    async def abort_upload(self, key: str, upload_id: str) -> None:
        with contextlib.suppress(NotFound):
            await self._calls.abort(checked_key(key), upload_id)

    def get_url(self, key: str, *, expires: int) -> str:
        return self._public.url("GET", checked_key(key), expires=expires)

    async def ping(self) -> None:
        await self._calls.ping()

    async def close(self) -> None:
        await self._session.close()


class _Source:
    """The caller's content, counted and read ahead a little: what is small goes in one request.

    It remembers what the content raised, as the library hands back only a text of it.
    """

    def __init__(self, content: AsyncIterator[bytes]) -> None:
        self._content = content
        self.ahead = b""
        self.ended = False
        self.size = 0
        self.error: BaseException | None = None

    async def read_ahead(self, most: int) -> None:
        """Reads until the end, or until at least `most` bytes are there."""
        pieces = []
        while self.size < most:
            try:
                pieces.append(await anext(self._content))
            except StopAsyncIteration:
                self.ended = True
                break
            self.size += len(pieces[-1])
        self.ahead = b"".join(pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it, once."""
        ahead, self.ahead = self.ahead, b""
        yield ahead
        del ahead
        try:
            async for chunk in self._content:
                self.size += len(chunk)
                yield chunk
        except BaseException as error:
            self.error = error
            raise


def _bare(etag: str | None) -> str | None:
    return (etag or "").strip('"') or None


@contextlib.contextmanager
def _translated(key: str, verb: str, source: _Source | None = None) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"cannot find object {key!r}", code="OBJECT_NOT_FOUND") from error
    except (BaseError, OSError, ValueError) as error:
        if source is not None and source.error is not None:
            raise source.error from None
        cause = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise Unavailable(f"cannot {verb} {key!r}: {cause}", code="OBJECTS_UNAVAILABLE") from error
