"""What a daemon counts of its own doing, for whoever runs it in a process of theirs; nothing in it decides anything."""

from collections import deque
from dataclasses import dataclass, field

_REMEMBERED = 64


@dataclass(slots=True)
class Tally:
    """`command_seconds` are the latest commands' times from arrival until the result was sent."""

    connected: bool = False
    registrations: int = 0
    sent: int = 0
    commands: int = 0
    command_seconds: "deque[float]" = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
