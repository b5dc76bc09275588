"""What the objects port promises, held against every backend."""

import asyncio
import io
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import aiohttp
import pytest
from tests import servers
from yarl import URL

from aiwm.infra.objects.local import LocalObjects
from aiwm.infra.objects.open import open_objects
from aiwm.infra.objects.port import Objects
from aiwm.infra.objects.tickets import BlobTickets
from aiwm.kit.clock import SystemClock
from aiwm.protocol.errors import Invalid, NotFound, Unavailable

SECRET = b"s" * 32
PART = 5 * 2**20
Put = Callable[[str, bytes], Awaitable[str]]
_folders = (f"t{number}" for number in itertools.count())
ODD_KEYS = ["plain", "with space/ü+=&?#%41.bin", "deep/er/est/x", "~tilde'\"!*()", "a.b-c_d", "\u65e5\u672c/\U0001f600"]


async def opened(url: str) -> Objects:
    return await open_objects(
        url,
        access_key=servers.MINIO_USER,
        secret_key=servers.MINIO_PASSWORD,
        public_base="http://controller.test",
        tickets=BlobTickets([SECRET], SystemClock()),
    )


@pytest.fixture(scope="module", params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("objects")
    if request.param == "local":
        yield f"file://{folder}/objects"
        return
    with servers.minio(folder) as endpoint:
        yield f"s3://aiwm-{secrets.token_hex(6)}?endpoint={endpoint}"


@pytest.fixture
async def objects(url: str) -> AsyncIterator[Objects]:
    found = await opened(url)
    yield found
    await found.close()


@pytest.fixture
async def folder(objects: Objects) -> AsyncIterator[str]:
    found = next(_folders)
    yield found
    await objects.delete([each.key for each in await objects.below(found)])


@pytest.fixture
async def put_part(objects: Objects) -> AsyncIterator[Put]:
    """PUTs bytes to a part's URL the way a client would; the answer's etag."""
    async with aiohttp.ClientSession() as session:

        async def put(where: str, content: bytes) -> str:
            if isinstance(objects, LocalObjects):
                ticket = BlobTickets([SECRET], SystemClock()).verify(where.rpartition("/")[2])
                return await objects.write_part(ticket, chunks(content), PART)
            async with session.put(URL(where, encoded=True), data=io.BytesIO(content)) as answer:
                answer.raise_for_status()
                return answer.headers["ETag"]

        yield put


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(objects: Objects, key: str, *, start: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in objects.get(key, start=start, length=length)])


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_a_blob_comes_back_as_it_went_in(objects: Objects, folder: str, key: str) -> None:
    key = f"{folder}/{key}"
    stored = await objects.put(key, chunks(b"hello ", b"", b"world"))
    assert (stored.key, stored.size) == (key, 11)
    assert await objects.stat(key) == stored
    assert await read(objects, key) == b"hello world"
    assert await objects.below(folder) == [stored]


@pytest.mark.parametrize("pieces", [[], [b""], [bytes(range(256)) * 4096] * 20])
async def test_blobs_of_any_size_are_kept_whole(objects: Objects, folder: str, pieces: Sequence[bytes]) -> None:
    content = b"".join(pieces)
    assert (await objects.put(f"{folder}/x", chunks(*pieces))).size == len(content)
    assert await read(objects, f"{folder}/x") == content


async def test_any_range_can_be_read(objects: Objects, folder: str) -> None:
    content = bytes(range(256)) * 4 * 9 * 1024
    await objects.put(f"{folder}/x", chunks(content))
    size = len(content)
    for start, length in [
        (0, 0),
        (0, 1),
        (5, 10),
        (size - 1, 1),
        (size - 3, 99),
        (size, 5),
        (size + 9, None),
        (7, None),
    ]:
        end = None if length is None else start + length
        assert await read(objects, f"{folder}/x", start=start, length=length) == content[start:end]


async def test_a_blob_put_again_is_replaced_whole(objects: Objects, folder: str) -> None:
    await objects.put(f"{folder}/x", chunks(b"first"))
    await objects.put(f"{folder}/x", chunks(b"second!"))
    assert await read(objects, f"{folder}/x") == b"second!"


@pytest.mark.parametrize("size", [0, 100, 17 * 2**20])
async def test_nothing_is_left_when_the_content_breaks_off(objects: Objects, folder: str, size: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(size)
        raise RuntimeError("source broke")

    with pytest.raises(RuntimeError, match="source broke"):
        await objects.put(f"{folder}/x", broken())
    assert await objects.below(folder) == []


async def test_what_is_not_there_is_not_found(objects: Objects, folder: str) -> None:
    await objects.put(f"{folder}/a/b", chunks(b"x"))
    for key in (f"{folder}/none", f"{folder}/a", f"{folder}/a/b/c"):
        with pytest.raises(NotFound):
            await objects.stat(key)
        with pytest.raises(NotFound):
            await read(objects, key)
    assert await objects.below(f"{folder}/none") == []


async def test_a_folder_is_listed_whole_and_sorted_and_no_other(objects: Objects, folder: str) -> None:
    names = ["a", "a.b", "b/c", "b/d/e", "z"]
    for name in reversed(names):
        await objects.put(f"{folder}/in/{name}", chunks(name.encode()))
    await objects.put(f"{folder}/inner", chunks(b""))
    found = await objects.below(f"{folder}/in")
    assert [each.key for each in found] == sorted(f"{folder}/in/{name}" for name in names)
    assert [each.size for each in found] == [len(each.key) - len(folder) - 4 for each in found]


async def test_deleting_removes_what_is_there_and_minds_nothing_else(objects: Objects, folder: str) -> None:
    for name in ("a", "b/c", "keep"):
        await objects.put(f"{folder}/{name}", chunks(b"x"))
    await objects.delete([f"{folder}/a", f"{folder}/b/c", f"{folder}/none"])
    await objects.delete([])
    assert [each.key for each in await objects.below(folder)] == [f"{folder}/keep"]
    await objects.put(f"{folder}/b", chunks(b"a file where a folder was"))


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\x00b", "a\\b", "x" * 256, "\ud800"]
)
async def test_a_key_that_is_none_is_refused_everywhere(objects: Objects, key: str) -> None:
    for call in (
        objects.put(key, chunks(b"x")),
        read(objects, key),
        objects.stat(key),
        objects.below(key),
        objects.delete([key]),
        objects.create_upload(key),
        objects.complete_upload(key, "u", [(1, "e")]),
        objects.parts(key, "u"),
    ):
        with pytest.raises(Invalid) as caught:
            await call
        assert caught.value.code == "KEY_INVALID"
    with pytest.raises(Invalid):
        objects.get_url(key, expires=60)
    with pytest.raises(Invalid):
        objects.part_url(key, "u", 1, expires=60)


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_an_upload_by_urls_becomes_one_blob(objects: Objects, folder: str, key: str, put_part: Put) -> None:
    key = f"{folder}/{key}"
    contents = [bytes([1]) * PART, bytes([2]) * PART, b"end"]
    upload = await objects.create_upload(key)
    assert await objects.parts(key, upload) == []
    etags = {}
    for number in (3, 1, 2):
        where = objects.part_url(key, upload, number, expires=60)
        etags[number] = await put_part(where, contents[number - 1])
    there = await objects.parts(key, upload)
    assert [(part.number, part.size) for part in there] == [(1, PART), (2, PART), (3, 3)]
    assert [part.etag for part in there] == [etags[number].strip('"') for number in (1, 2, 3)]
    with pytest.raises(NotFound):
        await objects.stat(key)
    await objects.complete_upload(key, upload, sorted(etags.items()))
    assert await read(objects, key) == b"".join(contents)
    with pytest.raises(NotFound):
        await objects.parts(key, upload)


async def test_completing_again_changes_nothing(objects: Objects, folder: str, put_part: Put) -> None:
    upload = await objects.create_upload(f"{folder}/x")
    etag = await put_part(objects.part_url(f"{folder}/x", upload, 1, expires=60), b"hello")
    for _ in range(2):
        await objects.complete_upload(f"{folder}/x", upload, [(1, etag)])
    assert await read(objects, f"{folder}/x") == b"hello"


async def test_an_empty_part_makes_an_empty_blob(objects: Objects, folder: str, put_part: Put) -> None:
    upload = await objects.create_upload(f"{folder}/x")
    etag = await put_part(objects.part_url(f"{folder}/x", upload, 1, expires=60), b"")
    await objects.complete_upload(f"{folder}/x", upload, [(1, etag)])
    assert (await objects.stat(f"{folder}/x")).size == 0


async def test_a_part_sent_again_counts_as_last_sent(objects: Objects, folder: str, put_part: Put) -> None:
    upload = await objects.create_upload(f"{folder}/x")
    where = objects.part_url(f"{folder}/x", upload, 1, expires=60)
    first = await put_part(where, b"first")
    second = await put_part(where, b"second")
    assert [part.size for part in await objects.parts(f"{folder}/x", upload)] == [6]
    with pytest.raises(Invalid):
        await objects.complete_upload(f"{folder}/x", upload, [(1, first)])
    await objects.complete_upload(f"{folder}/x", upload, [(1, second)])
    assert await read(objects, f"{folder}/x") == b"second"


async def test_a_completion_that_does_not_fit_is_refused_and_the_upload_stays(
    objects: Objects, folder: str, put_part: Put
) -> None:
    upload = await objects.create_upload(f"{folder}/x")
    etag = await put_part(objects.part_url(f"{folder}/x", upload, 1, expires=60), b"hello")
    other = "0" * 32
    for parts in (
        [],
        [(1, other)],
        [(2, etag)],
        [(1, etag), (2, other)],
        [(2, etag), (1, etag)],
        [(1, etag), (1, etag)],
    ):
        with pytest.raises(Invalid) as caught:
            await objects.complete_upload(f"{folder}/x", upload, parts)
        assert caught.value.code == "PART_INVALID"
    await objects.complete_upload(f"{folder}/x", upload, [(1, etag)])


async def test_an_abandoned_upload_is_gone(objects: Objects, folder: str, put_part: Put) -> None:
    upload = await objects.create_upload(f"{folder}/x")
    etag = await put_part(objects.part_url(f"{folder}/x", upload, 1, expires=60), b"hello")
    for _ in range(2):
        await objects.abort_upload(f"{folder}/x", upload)
    with pytest.raises(NotFound):
        await objects.parts(f"{folder}/x", upload)
    with pytest.raises(NotFound):
        await objects.complete_upload(f"{folder}/x", upload, [(1, etag)])


@pytest.mark.parametrize("upload", ["nope", "upload-" + "0" * 26])
async def test_an_unknown_upload_is_not_found(objects: Objects, folder: str, upload: str) -> None:
    with pytest.raises(NotFound):
        await objects.parts(f"{folder}/x", upload)
    with pytest.raises(NotFound):
        await objects.complete_upload(f"{folder}/x", upload, [(1, "0" * 32)])
    await objects.abort_upload(f"{folder}/x", upload)


@pytest.mark.parametrize("number", [0, -1, 10_001])
async def test_a_part_number_out_of_range_is_refused(objects: Objects, folder: str, number: int) -> None:
    with pytest.raises(Invalid):
        objects.part_url(f"{folder}/x", "u", number, expires=60)


async def test_many_writers_and_deleters_of_one_folder_do_not_disturb_each_other(objects: Objects, folder: str) -> None:
    async def round_trip(number: int) -> None:
        key = f"{folder}/shared/{number % 3}/{number}"
        await objects.put(key, chunks(str(number).encode()))
        assert await read(objects, key) == str(number).encode()
        await objects.delete([key])

    await asyncio.gather(*(round_trip(number) for number in range(40)))
    assert await objects.below(folder) == []


async def test_ping_returns_when_the_backend_answers(objects: Objects) -> None:
    await objects.ping()


async def test_a_server_that_is_away_is_unavailable_within_seconds(url: str, folder: str, tmp_path: Path) -> None:
    if url.startswith("file://"):
        pytest.skip("a local folder has no server")
    with pytest.raises(Unavailable, match="cannot reach the bucket"):
        await opened(f"s3://bucket?endpoint=http://127.0.0.1:{servers.free_port()}")
