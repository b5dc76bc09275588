"""The bus while Redis is killed, frozen, or sends nonsense."""

import asyncio
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis as RawRedis
from tests import servers
from tests.contract.test_bus import Ear, listening
from tests.faults.test_queue_outages import Redis

from aiwm.infra.bus.redis import RedisBus
from aiwm.protocol.errors import Unavailable
from aiwm.testing.world import eventually


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    found = Redis(tmp_path)
    yield found
    servers.stop(found.process)


async def test_a_listener_outlives_outages_and_learns_that_it_missed_something(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    bus, ear = RedisBus(redis.url, "x"), Ear()
    async with listening(bus, ("a", "b"), ear):
        for round_ in range(1, 3):
            redis.kill()
            with pytest.raises(Unavailable):
                await bus.publish("a", {})
            with pytest.raises(Unavailable):
                await bus.hold("lead", "me", 5)
            redis.back()
            await eventually(lambda round_=round_: ear.joins == 1 + round_)  # type: ignore[misc]
            assert await bus.publish("b", {"n": round_}) == 1
            await eventually(lambda round_=round_: ear.heard[-1:] == [("b", round_)])  # type: ignore[misc]
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 2, "an outage is said once"
    await bus.close()


async def test_a_listener_that_begins_in_an_outage_joins_when_redis_comes(redis: Redis) -> None:
    bus, ear = RedisBus(redis.url, "x"), Ear()
    redis.kill()
    task = asyncio.create_task(bus.listen(("a",), ear.hear, ear.joined))
    with pytest.raises(Unavailable):
        await bus.publish("a", {})
    redis.back()
    await eventually(lambda: ear.joins == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bus.close()


async def test_a_frozen_redis_is_unavailable_within_seconds_and_its_listener_notices(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    bus, ear = RedisBus(redis.url, "x"), Ear()
    async with listening(bus, ("a",), ear):
        redis.process.send_signal(signal.SIGSTOP)
        try:
            for call in (bus.publish("a", {}), bus.hold("lead", "me", 5)):
                async with asyncio.timeout(8):
                    with pytest.raises(Unavailable):
                        await call
            # Longer than its patience: it has hung up, and comes again.
            await eventually(lambda: "cannot be heard" in caplog.text, within=15)
        finally:
            redis.process.send_signal(signal.SIGCONT)
        await eventually(lambda: ear.joins == 2)
        assert await bus.publish("a", {"n": 1}) == 1
    await bus.close()


async def test_what_is_no_message_is_left_out(redis: Redis) -> None:
    bus, ear, raw = RedisBus(redis.url, "x"), Ear(), RawRedis.from_url(redis.url)
    async with listening(bus, ("a",), ear):
        for text in (b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"n": 1}'):
            await raw.publish("aiwm:x:a", text)
        await eventually(lambda: bool(ear.heard))
    assert ear.heard == [("a", 1)]
    await raw.aclose()
    await bus.close()
