"""The object stores on bad days and in bad hands: full disks, leftovers, other hosts, wrong settings."""

import os
import resource
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from tests import servers
from yarl import URL

from aiwm.infra.objects.local import LocalObjects
from aiwm.infra.objects.open import open_objects
from aiwm.infra.objects.port import Objects
from aiwm.infra.objects.tickets import BlobTickets
from aiwm.kit.clock import SystemClock
from aiwm.kit.settings import SettingsError
from aiwm.protocol.errors import Conflict, Invalid, NotFound, TooLarge, Unavailable

SECRET = b"s" * 32


async def opened(url: str, secret_key: str = servers.MINIO_PASSWORD) -> Objects:
    return await open_objects(
        url,
        access_key=servers.MINIO_USER,
        secret_key=secret_key,
        public_base="http://c.test/",
        tickets=BlobTickets([SECRET], SystemClock()),
    )


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Within it, this process can write no file larger than `size`: the nearest thing to a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path, "http://c.test", SECRET)
    tickets = BlobTickets([SECRET], SystemClock())
    upload = await objects.create_upload("a/part")
    ticket = tickets.verify(objects.part_url("a/part", upload, 1, expires=60).rpartition("/")[2])
    with files_up_to(2**16):
        with pytest.raises(Unavailable, match="cannot store 'a/x': File too large"):
            await objects.put("a/x", chunks(bytes(2**20)))
        with pytest.raises(Unavailable, match="cannot store part 1"):
            await objects.write_part(ticket, chunks(bytes(2**20)), 2**30)
    assert files(tmp_path) == [f"uploads/{upload}/key"]
    await objects.put("a/x", chunks(bytes(2**20)))


async def test_a_part_over_its_bound_or_after_the_end_is_refused(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path, "http://c.test", SECRET)
    tickets = BlobTickets([SECRET], SystemClock())
    upload = await objects.create_upload("x")
    ticket = tickets.verify(objects.part_url("x", upload, 1, expires=60).rpartition("/")[2])
    with pytest.raises(TooLarge) as caught:
        await objects.write_part(ticket, chunks(b"123", b"456"), 5)
    assert caught.value.code == "PART_TOO_LARGE"
    assert await objects.parts("x", upload) == []
    await objects.abort_upload("x", upload)
    with pytest.raises(NotFound):
        await objects.write_part(ticket, chunks(b"1"), 5)
    with pytest.raises(Invalid):
        await objects.write_part(tickets.verify(objects.get_url("x", expires=60).rpartition("/")[2]), chunks(b""), 5)
    assert files(tmp_path) == []


async def test_drafts_of_killed_processes_are_swept_after_a_day(tmp_path: Path) -> None:
    LocalObjects(tmp_path, "http://c.test", SECRET)
    for name, age in (("old", 25 * 3600), ("young", 60)):
        path = tmp_path / "drafts" / name
        path.write_text("x")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    LocalObjects(tmp_path, "http://c.test", SECRET)
    assert files(tmp_path) == ["drafts/young"]


async def test_a_key_below_a_blob_is_a_conflict_in_a_folder(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path, "http://c.test", SECRET)
    await objects.put("a", chunks(b"x"))
    with pytest.raises(Conflict):
        await objects.put("a/b", chunks(b"x"))
    assert files(tmp_path) == ["blobs/a"]


async def test_an_upload_is_of_its_own_key_only(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path, "http://c.test", SECRET)
    upload = await objects.create_upload("mine")
    for wrong in (("other", upload), ("mine", "../../etc"), ("mine", "")):
        with pytest.raises(NotFound):
            await objects.parts(*wrong)


async def test_urls_for_outsiders_bear_the_public_endpoint_and_work_there(tmp_path: Path) -> None:
    with servers.minio(tmp_path) as endpoint:
        public = endpoint.replace("127.0.0.1", "localhost")
        if public == endpoint:
            pytest.skip("AIWM_TEST_S3_URL names a server that has no second name; unset it")
        bucket = f"aiwm-{secrets.token_hex(6)}"
        objects = await opened(f"s3://{bucket}?endpoint={endpoint}&publicEndpoint={public}&region=eu-test-1")
        upload = await objects.create_upload("x y")
        where = objects.part_url("x y", upload, 1, expires=60)
        assert urlsplit(where).netloc == urlsplit(public).netloc
        async with aiohttp.ClientSession() as session:
            async with session.put(URL(where, encoded=True), data=b"hello") as answer:
                etag = answer.headers["ETag"]
            await objects.complete_upload("x y", upload, [(1, etag)])
            get = URL(objects.get_url("x y", expires=60), encoded=True)
            async with session.get(get, headers={"Range": "bytes=1-2"}) as answer:
                assert (answer.status, await answer.read()) == (206, b"el")
            for tampered in (
                URL(str(get).replace("x%20y", "z"), encoded=True),
                get.update_query({"X-Amz-Expires": "9"}),
            ):
                async with session.get(tampered) as answer:
                    assert answer.status == 403
        with pytest.raises(Unavailable, match="HTTP 403"):
            await opened(f"s3://{bucket}?endpoint={endpoint}", secret_key="wrong-secret")
        await objects.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "must be file:///FOLDER"),
        ("/data", "must be file:///FOLDER"),
        ("file://data/x", "file:///ABSOLUTE/PATH"),
        ("s3://", "must be file:///FOLDER"),
        ("s3://bucket/path", "must be file:///FOLDER"),
        ("s3://bucket?endpiont=http://m", "unknown option 'endpiont'"),
        ("s3://bucket?endpoint=minio:9000", "endpoint must be like http://HOST:PORT"),
        ("s3://bucket?endpoint=http://m/path", "endpoint must be like http://HOST:PORT"),
    ],
)
async def test_a_setting_that_cannot_be_used_is_refused(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match="AIWM_OBJECTS_URL") as caught:
        await opened(url)
    assert said in str(caught.value)


async def test_s3_without_its_keys_is_refused() -> None:
    with pytest.raises(SettingsError, match="AIWM_S3_SECRET_KEY"):
        await opened("s3://bucket?endpoint=http://m:9000", secret_key="")
