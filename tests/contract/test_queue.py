"""What the queue port promises, held against every backend."""

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bullmq import Queue as RawQueue
from tests import servers

from aiwm.infra.queue.memory import MemoryQueues
from aiwm.infra.queue.open import open_queues
from aiwm.infra.queue.port import Handler, Job, JobOptions, Queues
from aiwm.kit.settings import SettingsError
from aiwm.protocol.errors import AiwmError, Invalid, NotFound, Unavailable

_names = (f"queue{number}" for number in itertools.count())


@pytest.fixture(scope="module", params=["memory", "bullmq"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "memory":
        yield "memory://"
        return
    with servers.redis(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture
async def queues(url: str) -> AsyncIterator[Queues]:
    found = await open_queues(url)
    yield found
    await found.close()


@pytest.fixture
async def name(url: str) -> AsyncIterator[str]:
    found = next(_names)
    yield found
    if url != "memory://":
        raw = RawQueue(found, {"connection": url})
        await raw.obliterate(force=True)
        await raw.close()


async def until(holds: Callable[[], bool | Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not (found if isinstance(found := holds(), bool) else await found):  # noqa: ASYNC110 - facts lie elsewhere
            await asyncio.sleep(0.01)


@asynccontextmanager
async def consuming(queues: Queues, name: str, handler: Handler, concurrency: int = 8) -> AsyncIterator[None]:
    task = asyncio.create_task(queues.consume(name, handler, concurrency=concurrency))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def failed(queues: Queues, url: str, name: str) -> dict[str, str]:
    """The failed set: reasons by job id."""
    if isinstance(queues, MemoryQueues):
        return {job.id: reason for job, reason in queues.failed(name)}
    raw = RawQueue(name, {"connection": url})
    jobs = await raw.client.zrange(f"bull:{name}:failed", 0, -1)
    reasons = {job: await raw.client.hget(f"bull:{name}:{job}", "failedReason") for job in jobs}
    await raw.close()
    return reasons


async def add_foreign(queues: Queues, url: str, name: str, text: str, opts: str = "{}") -> str:
    """Adds a job whose stored data is `text`, as another program might."""
    if isinstance(queues, MemoryQueues):
        return await queues.add_foreign(name, "strange", text)
    raw = RawQueue(name, {"connection": url})
    job = await raw.add("strange", {}, {"delay": 400})
    await raw.client.hset(f"bull:{name}:{job.id}", mapping={"data": text, "opts": opts})
    await raw.close()
    return str(job.id)


async def test_a_job_arrives_with_its_name_and_data(queues: Queues, name: str) -> None:
    got: list[Job] = []

    async def handler(job: Job) -> None:
        got.append(job)

    data: dict[str, object] = {"text": "grüße \u2028 \U0001f600", "deep": {"list": [1, 2.5, None, True, ""]}}
    async with consuming(queues, name, handler):
        job_id = await queues.add(name, "model.done", data)
        await until(lambda: bool(got))
    assert got == [Job(job_id, "model.done", data, 1)]


async def test_jobs_added_before_anyone_listens_are_delivered(queues: Queues, name: str) -> None:
    ids = {await queues.add(name, "early", {"n": n}) for n in range(30)}
    got: set[str] = set()

    async def handler(job: Job) -> None:
        got.add(job.id)

    async with consuming(queues, name, handler):
        await until(lambda: got == ids)
    assert not any(":" in each for each in ids)


async def test_a_job_whose_id_is_remembered_is_not_added_again(queues: Queues, name: str) -> None:
    got: list[object] = []

    async def handler(job: Job) -> None:
        got.append(job.data)

    again = JobOptions(job_id="fact-1")
    assert await queues.add(name, "fact", {"n": 1}, again) == "fact-1"
    assert await queues.add(name, "fact", {"n": 2}, again) == "fact-1"
    async with consuming(queues, name, handler):
        await until(lambda: bool(got))
        await queues.add(name, "fact", {"n": 3}, again)
        await queues.add(name, "other", {"n": 4})
        await until(lambda: {"n": 4} in got)
    assert got == [{"n": 1}, {"n": 4}]


@pytest.mark.parametrize("job_id", ["a:b", "12", ":"])
async def test_an_id_the_queue_cannot_hold_is_a_bug_of_the_caller(queues: Queues, name: str, job_id: str) -> None:
    with pytest.raises(ValueError, match="job id"):
        await queues.add(name, "x", {}, JobOptions(job_id=job_id))


async def test_a_delayed_job_comes_on_time(queues: Queues, name: str) -> None:
    loop = asyncio.get_running_loop()
    came: list[float] = []

    async def handler(job: Job) -> None:
        came.append(loop.time())

    async with consuming(queues, name, handler):
        began = loop.time()
        await queues.add(name, "later", {}, JobOptions(delay=0.5))
        await until(lambda: bool(came))
    assert 0.49 <= came[0] - began < 1.4


async def test_what_may_pass_is_tried_again_until_it_passes(queues: Queues, url: str, name: str) -> None:
    attempts: list[int] = []

    async def handler(job: Job) -> None:
        attempts.append(job.attempt)
        if job.attempt < 3:
            raise Unavailable("cannot reach it: away")

    async with consuming(queues, name, handler):
        await queues.add(name, "x", {}, JobOptions(attempts=5, backoff=0.05))
        await until(lambda: len(attempts) == 3)
    assert attempts == [1, 2, 3]
    assert await failed(queues, url, name) == {}


async def test_a_job_out_of_attempts_is_in_the_failed_set(queues: Queues, url: str, name: str) -> None:
    attempts: list[int] = []

    async def handler(job: Job) -> None:
        attempts.append(job.attempt)
        raise Unavailable("cannot reach it: away")

    async with consuming(queues, name, handler):
        job_id = await queues.add(name, "x", {}, JobOptions(attempts=3, backoff=0.02))

        async def dead() -> bool:
            return bool(await failed(queues, url, name))

        await until(dead)
    assert attempts == [1, 2, 3]
    assert await failed(queues, url, name) == {job_id: "UNAVAILABLE: cannot reach it: away"}


@pytest.mark.parametrize("error", [NotFound("cannot find it: gone"), Invalid("cannot read it: odd", code="ODD")])
async def test_what_cannot_pass_fails_at_once(queues: Queues, url: str, name: str, error: AiwmError) -> None:
    attempts: list[int] = []

    async def handler(job: Job) -> None:
        attempts.append(job.attempt)
        if job.name == "bad":
            raise error

    async with consuming(queues, name, handler):
        job_id = await queues.add(name, "bad", {})
        await until(lambda: bool(attempts))
        await queues.add(name, "good", {})
        await until(lambda: len(attempts) == 2)

        async def dead() -> bool:
            return await failed(queues, url, name) == {job_id: f"{error.code}: {error.message}"}

        await until(dead)
    assert attempts == [1, 1]


@pytest.mark.expects_errors
async def test_a_bug_is_logged_with_its_traceback_and_tried_again(
    queues: Queues, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []

    async def handler(job: Job) -> None:
        attempts.append(job.attempt)
        if job.attempt == 1:
            raise KeyError("oops")
        if job.attempt == 2:
            raise asyncio.CancelledError

    async with consuming(queues, name, handler):
        await queues.add(name, "x", {}, JobOptions(backoff=0.02))
        await until(lambda: len(attempts) == 3)
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 2
    assert all(record.exc_info for record in logged)


JSON_TEXTS = ["[1,2]", '"text"', "7", "null", "true", '{"event":null}', "[" * 60 + "]" * 60]


@pytest.mark.parametrize("text", JSON_TEXTS)
async def test_any_json_of_another_writer_is_delivered(queues: Queues, url: str, name: str, text: str) -> None:
    got: list[object] = []

    async def handler(job: Job) -> None:
        got.append(job.data)

    async with consuming(queues, name, handler):
        await add_foreign(queues, url, name, text)
        await until(lambda: bool(got))
    assert got == [json.loads(text)]


@pytest.mark.parametrize("text", ["", "{", "nope", '{"a":1}}', "'x'", "[" * 100_000])
async def test_a_job_that_cannot_be_read_fails_and_the_queue_moves_on(
    queues: Queues, url: str, name: str, text: str
) -> None:
    got: list[str] = []

    async def handler(job: Job) -> None:
        got.append(job.name)

    async with consuming(queues, name, handler, concurrency=1):
        job_id = await add_foreign(queues, url, name, text)

        async def dead() -> bool:
            return job_id in await failed(queues, url, name)

        await until(dead)
        await queues.add(name, "next", {})
        await until(lambda: bool(got))
    assert got == ["next"]
    assert (await failed(queues, url, name))[job_id].startswith("cannot read the job: ")


@pytest.mark.parametrize("opts", ["[]", "nope", '"x"', '{"attempts":"many"}', '{"backoff":"odd"}'])
async def test_odd_options_of_another_writer_do_not_stop_the_queue(url: str, name: str, opts: str) -> None:
    if url == "memory://":
        pytest.skip("only jobs in Redis carry options that others wrote")
    queues = await open_queues(url)
    got: list[str] = []

    async def handler(job: Job) -> None:
        got.append(job.name)
        if job.name == "strange":
            raise Invalid("cannot take it: strange")

    async with consuming(queues, name, handler, concurrency=1):
        job_id = await add_foreign(queues, url, name, "{}", opts)

        async def dead() -> bool:
            return job_id in await failed(queues, url, name)

        await until(dead)
        await queues.add(name, "next", {})
        await until(lambda: "next" in got)
    await queues.close()


async def test_no_more_jobs_run_at_once_than_allowed(queues: Queues, name: str) -> None:
    running = most = ended = 0

    async def handler(job: Job) -> None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        ended += 1

    for _ in range(20):
        await queues.add(name, "x", {})
    async with consuming(queues, name, handler, concurrency=3):
        await until(lambda: ended == 20)
    assert most == 3


async def test_a_consumer_that_is_cancelled_ends_its_running_jobs_first(queues: Queues, name: str) -> None:
    begun, release, ended = asyncio.Event(), asyncio.Event(), 0

    async def handler(job: Job) -> None:
        nonlocal ended
        begun.set()
        await release.wait()
        ended += 1

    for _ in range(5):
        await queues.add(name, "x", {})
    task = asyncio.create_task(queues.consume(name, handler, concurrency=2))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    first = ended
    assert 1 <= first <= 2
    async with consuming(queues, name, handler):
        await until(lambda: ended == 5)


async def test_two_consumers_share_the_jobs_of_a_queue(queues: Queues, name: str) -> None:
    got: list[str] = []

    async def handler(job: Job) -> None:
        got.append(job.id)

    async with consuming(queues, name, handler), consuming(queues, name, handler):
        ids = [await queues.add(name, "x", {}) for _ in range(50)]
        await until(lambda: len(got) >= 50)
    assert sorted(got) == sorted(ids)


async def test_ping_returns_when_the_backend_answers(queues: Queues) -> None:
    await queues.ping()


@pytest.mark.parametrize("wrong", ["", "amqp://x", "localhost:6379", "redis://h:port"])
async def test_a_url_that_cannot_be_used_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="AIWM_REDIS_URL"):
        await open_queues(wrong)


async def test_without_a_server_calls_fail_within_seconds(tmp_path: Path) -> None:
    queues = await open_queues(f"redis://127.0.0.1:{servers.free_port()}/0")
    for call in (queues.ping(), queues.add("x", "y", {})):
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match=r"cannot .*: Redis: "):
                await call
    await queues.close()
