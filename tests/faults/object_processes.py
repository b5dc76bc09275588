"""What the killed processes of the objects' fault tests do: put blobs, and complete uploads, for ever."""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from tests import servers
from yarl import URL

from aiwm.infra.objects.local import LocalObjects
from aiwm.infra.objects.open import open_objects
from aiwm.infra.objects.port import Objects
from aiwm.infra.objects.tickets import BlobTickets
from aiwm.kit.clock import SystemClock

SECRET = b"s" * 32


async def opened(url: str) -> Objects:
    """The store at `url`."""
    return await open_objects(
        url,
        access_key=servers.MINIO_USER,
        secret_key=servers.MINIO_PASSWORD,
        public_base="http://controller.test",
        tickets=BlobTickets([SECRET], SystemClock()),
    )


def content_of(key: str) -> bytes:
    """What belongs under `key`: its own hash, often enough to be torn."""
    return hashlib.sha256(key.encode()).hexdigest().encode() * 200


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 4096):
        yield content[start : start + 4096]


async def write(url: str, acknowledged: str, name: str) -> None:
    """Puts blobs, every fifth as an upload by URL; each key is noted once the store has acknowledged it."""
    objects = await opened(url)
    handle = os.open(Path(acknowledged), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with aiohttp.ClientSession() as session:
        number = 0
        while True:
            key = f"kept/{name}/{number % 7}/{number}"
            if number % 5 == 4:
                await _upload(objects, session, key)
            else:
                await objects.put(key, _pieces(content_of(key)))
            os.write(handle, f"{key}\n".encode())
            number += 1


async def _upload(objects: Objects, session: aiohttp.ClientSession, key: str) -> None:
    upload = await objects.create_upload(key)
    where = objects.part_url(key, upload, 1, expires=60)
    if isinstance(objects, LocalObjects):
        ticket = BlobTickets([SECRET], SystemClock()).verify(where.rpartition("/")[2])
        etag = await objects.write_part(ticket, _pieces(content_of(key)), 2**20)
    else:
        async with session.put(URL(where, encoded=True), data=content_of(key)) as answer:
            answer.raise_for_status()
            etag = answer.headers["ETag"]
    await objects.complete_upload(key, upload, [(1, etag)])
