"""The bus port: short-lived messages between the processes of one installation, and leases among them.

A message reaches whoever listens at that moment, and nobody else: it is a hint, never a record. Whoever listens is
told when it may have missed some, and then looks for itself.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from aiwm.protocol.errors import TooLarge

Message = dict[str, object]
Hear = Callable[[str, Message], Awaitable[None]]
"""Takes one message and the topic it came on."""

MAX_MESSAGE_BYTES = 8_000_000
MAX_WAITING_BYTES = 32_000_000


class Bus(Protocol):
    """Every method but `listen` raises `Unavailable` within a few seconds when the backend cannot be reached."""

    async def publish(self, topic: str, message: Message) -> int:
        """Sends to all who listen now; how many those are. `TooLarge` above 8 MB."""
        ...

    async def listen(self, topics: Sequence[str], hear: Hear, joined: Callable[[], Awaitable[None]]) -> None:
        """Hears messages one after the other, in each publisher's order, until cancelled, through outages.

        `joined` is called once the topics are listened to, and again whenever messages may have been missed: after an
        outage, or when `hear` was so slow that more than 32 MB waited, which are dropped. An error of `hear` or
        `joined` ends it.
        """
        ...

    async def hold(self, name: str, owner: str, seconds: float) -> int | None:
        """Takes or renews a lease: its term, counted up each time that it is taken; None while another holds it."""
        ...

    async def release(self, name: str, owner: str) -> None:
        """Gives a lease back; nothing when `owner` does not hold it."""
        ...

    async def close(self) -> None:
        """Ends every connection."""
        ...


def packed(topic: str, message: Message) -> str:
    """The message as text; `TooLarge`."""
    text = json.dumps(message, separators=(",", ":"), allow_nan=False)
    if len(text) > MAX_MESSAGE_BYTES:
        raise TooLarge(f"cannot send a message of {len(text)} bytes on {topic}: 8 MB is the limit")
    return text
