"""What may not be lost while the link is away: kept within bounds, newest first to stay, sent after the next register.

Little belongs here. News of a replica is in the inventory that each registration sends, telemetry is made anew, and a
command's result means nothing to another session. The last lines of an engine that ended are told by nothing else.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from aiwm.protocol.base import Wire

MOST_MESSAGES = 256
MOST_BYTES = 1_000_000
DOUBT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that waits: only the newest of a `key` is kept. `size` is its bytes on the wire, near enough."""

    type: str
    key: str
    data: Wire
    at: datetime
    size: int
    generation: int | None = None
    correlation_id: str | None = None


class Outbox:
    """Letters in the order they are to be sent. What was sent is in doubt until the link outlived it for a while."""

    def __init__(self, most_messages: int = MOST_MESSAGES, most_bytes: int = MOST_BYTES) -> None:
        self._most_messages, self._most_bytes = most_messages, most_bytes
        self._waiting: OrderedDict[tuple[str, str], Letter] = OrderedDict()
        self._doubtful: OrderedDict[tuple[str, str], tuple[float, Letter]] = OrderedDict()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Bytes of all that waits."""
        return self._bytes

    def put(self, letter: Letter) -> None:
        """Keeps `letter` in place of an older one of its key; the oldest give way when there are too many."""
        self._doubtful.pop(_key(letter), None)
        self._take_out(_key(letter))
        self._waiting[_key(letter)] = letter
        self._bytes += letter.size
        while len(self._waiting) > self._most_messages or self._bytes > self._most_bytes:
            self._take_out(next(iter(self._waiting)))
            self.dropped += 1

    def next(self) -> Letter | None:
        """The letter to send next; it stays until `sent`."""
        return next(iter(self._waiting.values()), None)

    def sent(self, letter: Letter, *, now: float) -> None:
        """`letter` went out at `now` (monotonic): nobody says whether it arrived."""
        if self._waiting.get(_key(letter)) is letter:
            self._take_out(_key(letter))
        self._settle(now)
        self._doubtful[_key(letter)] = (now, letter)
        while len(self._doubtful) > self._most_messages:
            self._doubtful.popitem(last=False)

    def broke(self, *, now: float) -> None:
        """The link is gone, and with it perhaps what was sent last: that is sent once more, before all else."""
        self._settle(now)
        again, self._doubtful = self._doubtful, OrderedDict()
        later, self._waiting, self._bytes = self._waiting, OrderedDict(), 0
        for letter in (*(each for _, each in again.values()), *later.values()):
            self.put(letter)

    def take_dropped(self) -> int:
        """How many were dropped since this was last asked."""
        dropped, self.dropped = self.dropped, 0
        return dropped

    def _settle(self, now: float) -> None:
        while self._doubtful and now - next(iter(self._doubtful.values()))[0] >= DOUBT_SECONDS:
            self._doubtful.popitem(last=False)

    def _take_out(self, key: tuple[str, str]) -> None:
        letter = self._waiting.pop(key, None)
        if letter is not None:
            self._bytes -= letter.size


def _key(letter: Letter) -> tuple[str, str]:
    return letter.type, letter.key
