"""The queue speaks with the npm package BullMQ in both directions."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests import servers

from aiwm.infra.queue.bullmq import BullQueues
from aiwm.infra.queue.port import Job, JobOptions
from aiwm.protocol.errors import Unavailable

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "npm-bullmq"
SCRIPT = Path(__file__).with_name("npm_queue.js")


@pytest.fixture(scope="module")
def package() -> Path:
    """The npm package's folder, installed once into the checkout's cache."""
    found = CACHE / "node_modules" / "bullmq"
    if found.exists() and found.with_name("ioredis").exists():
        return found
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no Node.js: apt-get install nodejs npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(CACHE), "bullmq@6", "ioredis@5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode != 0 or not found.exists():
        pytest.skip(f"no npm bullmq: {' '.join(command)}")
    return found


@pytest.fixture
async def queues(tmp_path: Path) -> AsyncIterator[tuple[BullQueues, str]]:
    with servers.redis(tmp_path) as url:
        found = BullQueues(url)
        yield found, url
        await found.close()


async def npm(package: Path, *args: str) -> object:
    process = await asyncio.create_subprocess_exec(
        "node", str(SCRIPT), *args, stdout=subprocess.PIPE, env={**os.environ, "AIWM_TEST_BULLMQ": str(package)}
    )
    try:
        async with asyncio.timeout(30):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return json.loads(output)


async def test_jobs_that_npm_adds_are_delivered_here(queues: tuple[BullQueues, str], package: Path) -> None:
    ours, url = queues
    ids = await npm(package, "add", url, "from-npm")
    got: list[Job] = []
    all_there = asyncio.Event()

    async def handler(job: Job) -> None:
        got.append(job)
        if job.name == "own" and job.attempt == 1:
            raise Unavailable("cannot do it: not yet")
        if len(got) == 3:
            all_there.set()

    consumer = asyncio.create_task(ours.consume("from-npm", handler))
    async with asyncio.timeout(20):
        await all_there.wait()
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)
    text = {"event": "service.event", "data": {"text": "grüße 😀", "n": [1, None]}}
    assert [job.id for job in got[:2]] == ids
    assert got[0] == Job(got[0].id, "service.event", text, 1)
    assert got[1:] == [Job("own-id", "own", {"n": 2}, 1), Job("own-id", "own", {"n": 2}, 2)]


async def test_jobs_added_here_are_delivered_by_npm(queues: tuple[BullQueues, str], package: Path) -> None:
    ours, url = queues
    data: dict[str, object] = {"event": "service.event", "data": {"text": "grüße 😀", "n": [1, None]}}
    first = await ours.add("to-npm", "service.event", data)
    await ours.add("to-npm", "flaky", {"n": 2}, JobOptions(job_id="own-id", attempts=4, backoff=0.02))
    await ours.add("to-npm", "flaky", {"n": 3}, JobOptions(job_id="own-id"))
    later = await ours.add("to-npm", "later", {"n": 4}, JobOptions(delay=0.3))
    got = await npm(package, "take", url, "to-npm", "4")
    assert isinstance(got, list)
    got.sort(key=lambda job: (job["name"], job["made"]))
    assert got == [
        {"id": "own-id", "name": "flaky", "data": {"n": 2}, "attempts": 4, "made": 0},
        {"id": "own-id", "name": "flaky", "data": {"n": 2}, "attempts": 4, "made": 1},
        {"id": later, "name": "later", "data": {"n": 4}, "attempts": 5, "made": 0},
        {"id": first, "name": "service.event", "data": data, "attempts": 5, "made": 0},
    ]
