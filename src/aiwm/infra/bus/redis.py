"""The bus on Redis: pub/sub for messages, keys that expire for leases. Two connections at most, made when needed."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from aiwm.infra.bus.inbox import Inbox
from aiwm.infra.bus.port import Hear, Message, packed
from aiwm.kit.backoff import delays
from aiwm.protocol.errors import Unavailable

log = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0
_PING_AFTER_SECONDS = 5.0

# KEYS: lease, count of terms; ARGV: owner, milliseconds.
_HOLD = """
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return redis.call('GET', KEYS[2])
elseif owner then
  return false
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return redis.call('INCR', KEYS[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
"""


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise Unavailable(f"cannot {what}: Redis: {reason}", code="BUS_UNAVAILABLE") from error


def _client(url: str, *, connections: int) -> "Redis":
    """Never tries again by itself: that a message or a lease was late must be seen by whoever sent it."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=ANSWER_SECONDS,
        decode_responses=True,
        encoding_errors="replace",
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=2,
        socket_timeout=ANSWER_SECONDS,
    )
    return Redis.from_pool(pool)


class RedisBus:
    """`Bus` on the Redis at `url`; `space` keeps the topics and leases of several installations on it apart."""

    def __init__(self, url: str, space: str) -> None:
        self._url, self._space = url, space
        # One connection: what is published one after the other is heard in that order, whatever the topics.
        self._redis = _client(url, connections=1)
        self._hold = self._redis.register_script(_HOLD)
        self._release = self._redis.register_script(_RELEASE)

    async def publish(self, topic: str, message: Message) -> int:
        text = packed(topic, message)
        return int(await self._asked("tell other processes", self._redis.publish(self._key(topic), text)))

    async def hold(self, name: str, owner: str, seconds: float) -> int | None:
        lease = self._key(f"lease:{name}")
        asking = self._hold(keys=[lease, f"{lease}:term"], args=[owner, round(seconds * 1000)])
        term = await self._asked(f"hold the lease {name}", asking)
        return None if term is None else int(term)

    async def release(self, name: str, owner: str) -> None:
        await self._asked(f"release the lease {name}", self._release(keys=[self._key(f"lease:{name}")], args=[owner]))

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, name: str) -> str:
        return f"aiwm:{self._space}:{name}"

    async def _asked(self, what: str, call: Awaitable[Any]) -> Any:
        with _translated(what):
            async with asyncio.timeout(ANSWER_SECONDS + 2):
                return await call

    async def listen(self, topics: Sequence[str], hear: Hear, joined: Callable[[], Awaitable[None]]) -> None:
        inbox = Inbox()
        reading = asyncio.create_task(self._read(topics, inbox), name=f"listening to {topics[0]}")
        handling = asyncio.create_task(inbox.handle(hear, joined), name=f"hearing {topics[0]}")
        try:
            done, _ = await asyncio.wait([reading, handling], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (reading, handling):
                task.cancel()
            await asyncio.gather(reading, handling, return_exceptions=True)

    async def _read(self, topics: Sequence[str], inbox: Inbox) -> None:
        """Reads at once whatever comes, as Redis drops those who do not; begins anew after each outage."""
        keys = {self._key(topic): topic for topic in topics}
        pauses, away = delays(0.1, 2), False
        while True:
            client = _client(self._url, connections=1)
            try:
                async with client.pubsub() as pubsub:
                    await self._join(pubsub, keys)
                    if away:
                        log.info("other processes are heard again")
                    pauses, away = delays(0.1, 2), False
                    inbox.missed()
                    await self._hear(pubsub, keys, inbox)
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("other processes cannot be heard, trying until they can: Redis: %s", error)
                away = True
            finally:
                await client.aclose()
            await asyncio.sleep(next(pauses))

    async def _join(self, pubsub: PubSub, keys: dict[str, str]) -> None:
        await pubsub.subscribe(*keys)
        left = set(keys)
        async with asyncio.timeout(ANSWER_SECONDS):
            while left:
                message = await pubsub.get_message(timeout=ANSWER_SECONDS)
                if message is not None and message["type"] == "subscribe":
                    left.discard(message["channel"])

    async def _hear(self, pubsub: PubSub, keys: dict[str, str], inbox: Inbox) -> None:
        asked = False
        while True:
            message = await pubsub.get_message(timeout=_PING_AFTER_SECONDS)
            if message is None:
                if asked:
                    raise TimeoutError("it does not answer")
                await pubsub.ping()
                asked = True
                continue
            asked = False
            if message["type"] == "message":
                inbox.put(keys[message["channel"]], message["data"])
            elif message["type"] == "subscribe":
                # The library has connected again by itself, and does not say so otherwise.
                inbox.missed()
