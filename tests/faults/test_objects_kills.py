"""Nothing lost among the objects: writers are killed at random moments; no acknowledged blob is missing or torn."""

import asyncio
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import servers
from tests.faults.object_processes import content_of, opened
from tests.faults.zygote import lifetime, lines, zygote

KILLS = 200


@contextmanager
def store(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty object store."""
    if kind == "local":
        yield f"file://{folder}/objects"
        return
    with servers.minio(folder) as endpoint:
        yield f"s3://aiwm-{secrets.token_hex(6)}?endpoint={endpoint}"


async def _torn_and_there(url: str) -> tuple[list[str], set[str]]:
    """Blobs whose content is not theirs, and all keys."""
    objects = await opened(url)
    found = await objects.below("kept")
    bodies = {each.key: b"".join([chunk async for chunk in objects.get(each.key)]) for each in found}
    await objects.close()
    return [key for key, body in bodies.items() if body != content_of(key)], set(bodies)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_no_acknowledged_blob_is_lost_and_none_is_torn(tmp_path: Path, kind: str) -> None:
    rng = random.Random(20261123)
    acknowledged = tmp_path / "acknowledged"
    with store(kind, tmp_path) as url:
        asyncio.run(_touch(url))
        began, names = time.monotonic(), 0
        with zygote("tests.faults.object_processes") as source:
            due: list[tuple[float, int]] = []
            while source.killed < KILLS:
                while len(due) < 3:
                    names += 1
                    pid = source.spawn("write", url, str(acknowledged), f"w{names}")
                    due.append((time.monotonic() + lifetime(rng, 0.4), pid))
                first = min(due)
                due.remove(first)
                time.sleep(max(0.0, first[0] - time.monotonic()))
                source.kill(first[1])
            for _, pid in due:
                source.kill(pid)
        writing = time.monotonic() - began
        torn, there = asyncio.run(_torn_and_there(url))
    wanted = lines(acknowledged)
    print(f"{kind}: {len(wanted)} blobs in {writing:.1f} s ({len(wanted) / writing:.0f}/s), {KILLS} writers killed")
    assert len(wanted) / writing >= 50
    assert set(wanted) <= there
    assert torn == []


async def _touch(url: str) -> None:
    await (await opened(url)).close()
