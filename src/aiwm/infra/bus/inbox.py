"""What was heard and not yet handled, bounded: a slow handler costs memory up to a limit, and never the connection."""

import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from aiwm.infra.bus.port import MAX_WAITING_BYTES, Hear
from aiwm.kit.wake import Wake

log = logging.getLogger(__name__)


class Inbox:
    """Filled by a connection's reader, emptied by `handle`."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, str]] = deque()
        self._bytes = 0
        self._missed = False
        self._wake = Wake()

    def put(self, topic: str, text: str) -> None:
        """One message more; too many, and all that wait are dropped and count as missed."""
        self._waiting.append((topic, text))
        self._bytes += len(text)
        if self._bytes > MAX_WAITING_BYTES:
            if not self._missed:
                log.warning(
                    "messages of other processes came faster than they were handled; what is missed is looked up"
                )
            self.missed()
        self._wake.set()

    def missed(self) -> None:
        """Messages may have been lost; those that still wait are older than that, and dropped."""
        self._waiting.clear()
        self._bytes, self._missed = 0, True
        self._wake.set()

    async def handle(self, hear: Hear, joined: Callable[[], Awaitable[None]]) -> None:
        """Hands messages over for ever."""
        while True:
            if self._missed:
                self._missed = False
                await joined()
            elif self._waiting:
                topic, text = self._waiting.popleft()
                self._bytes -= len(text)
                try:
                    message = json.loads(text)
                except (ValueError, RecursionError):
                    message = None
                if isinstance(message, dict):
                    await hear(topic, message)
                else:
                    log.warning("a message that cannot be read came on %s", topic)
            else:
                await self._wake.wait()
