"""Every message stays well below what one may weigh: a heavier one would end the whole connection, again and again.

Sizes are those of the JSON that goes out, where one character may weigh twelve bytes. Texts give way, the list of
replicas never does: a controller that misses a replica there may take it for gone.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

from aiwm.protocol.node_channel import LOG_LINES, MAX_MESSAGE_BYTES, ReplicaReport

MOST_MESSAGE_BYTES = MAX_MESSAGE_BYTES * 9 // 10
MOST_INVENTORY_BYTES = MAX_MESSAGE_BYTES * 6 // 10
MOST_LOG_BYTES = 65_536
_MOST_LINE_CHARACTERS = 4096
_MESSAGE_LENGTHS = (200, 60, 0)
# What the controller knows of a replica anyway, in the order in which it is left out.
_KNOWN_ANYWAY: tuple[dict[str, object], ...] = ({"container_name": None}, {"gpu_device_ids": []})


def weight(value: object) -> int:
    """How many bytes `value` weighs as JSON on the wire."""
    return len(json.dumps(value, separators=(",", ":")))


def fitted(replicas: Sequence[ReplicaReport], most: int = MOST_INVENTORY_BYTES) -> list[ReplicaReport]:
    """All of `replicas`, with texts as short as it takes to weigh `most` bytes or less."""
    chosen = list(replicas)
    steps = _ever_shorter(chosen)
    while sum(weight(each.to_wire()) + 1 for each in chosen) > most:
        shorter = next(steps, None)
        if shorter is None:
            break
        chosen = shorter
    return chosen


def _ever_shorter(replicas: list[ReplicaReport]) -> Iterator[list[ReplicaReport]]:
    for length in _MESSAGE_LENGTHS:
        replicas = [each.model_copy(update={"message": _cut(each.message, length)}) for each in replicas]
        yield replicas
    for changes in _KNOWN_ANYWAY:
        replicas = [each.model_copy(update=changes) for each in replicas]
        yield replicas


def _cut(message: str | None, length: int) -> str | None:
    if message is None or length == 0:
        return None
    return message if len(message) <= length else f"{message[: length - 1]}…"


def last_lines(text: str, most: int = MOST_LOG_BYTES) -> list[str]:
    """The last lines of `text`, in order: 200 at most, `most` bytes together, each as long as a line may be."""
    return list(_newest(reversed(text.splitlines()), most))[::-1]


def _newest(lines: Iterable[str], most: int) -> Iterator[str]:
    for number, whole in enumerate(lines):
        line = whole[:_MOST_LINE_CHARACTERS]
        most -= weight(line) + 1
        if number >= LOG_LINES or most < 0:
            return
        yield line
