"""What a container wrote, by Docker's log.

An offset is a moment in microseconds: old lines are thrown away, moments are not.
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from aiwm.daemon.enginelog import MOST_BYTES, too_heavy
from aiwm.daemon.keeper import write_atomically
from aiwm.protocol.node_channel import LogsResult

_HEADER = 8
_KEPT = "container.log.json"
_NOTED_LATE = 1_000_000

Line = tuple[int, bytes]


class Reader(Protocol):
    async def readexactly(self, n: int) -> bytes: ...


async def lines(stream: Reader) -> AsyncIterator[Line]:
    """The moment and the text of each line; Docker splits those over 16 KiB."""
    while True:
        try:
            header = await stream.readexactly(_HEADER)
            frame = await stream.readexactly(int.from_bytes(header[4:]))
        except EOFError:
            return
        stamp, _, text = frame.partition(b" ")
        yield microseconds(stamp.decode()), text


def microseconds(stamp: str) -> int:
    """Docker's time since 1970."""
    moment = datetime.fromisoformat(stamp)
    return (int(moment.replace(microsecond=0).timestamp()) * 1_000_000) + moment.microsecond


def since(offset: int) -> str:
    """An offset as Docker takes it."""
    return f"{offset // 1_000_000}.{offset % 1_000_000:06d}"


async def newest(found: AsyncIterator[Line], most: int = MOST_BYTES) -> list[Line]:
    """The last of them, up to `most` bytes."""
    kept: deque[Line] = deque()
    size = 0
    async for line in found:
        kept.append(line)
        size += len(line[1])
        while size > most:
            size -= len(kept.popleft()[1])
    return list(kept)


async def oldest(found: AsyncIterator[Line], most: int = MOST_BYTES) -> list[Line]:
    """The first of them, and one more than fits in `most` bytes, by which `after` knows that there are more."""
    kept: list[Line] = []
    size = 0
    async for line in found:
        kept.append(line)
        size += len(line[1])
        if size > most:
            break
    return kept


def tail(found: list[Line], count: int) -> LogsResult:
    """The last `count` lines."""
    end = found[-1][0] + 1 if found else 0
    chosen = found[len(found) - min(count, len(found)) :]
    while too_heavy(_text(chosen)):
        chosen = chosen[(len(chosen) + 1) // 2 :]
    return _result(chosen, end)


def after(found: list[Line], offset: int, most: int = MOST_BYTES) -> LogsResult:
    """What of `found` is not before `offset`, up to `most` bytes, and where the rest begins.

    Lines of one moment stay together, as an offset cannot come between them; those too many for one answer are cut.
    """
    chosen = [line for line in found if line[0] >= offset]
    if sum(len(text) for _, text in chosen) > most:
        last = chosen[-1][0]
        chosen = [line for line in chosen if line[0] < last] or chosen[:-1]
    while too_heavy(_text(chosen)):
        chosen = chosen[: len(chosen) // 2]
    return _result(chosen, chosen[-1][0] + 1 if chosen else offset)


def keep(folder: Path, found: list[Line]) -> None:
    """Remembers the last lines of a container that is about to be removed."""
    content = [[moment, text.decode(errors="replace")] for moment, text in found]
    write_atomically(folder / _KEPT, {"lines": content})


def kept(folder: Path) -> list[Line]:
    """What `keep` remembered."""
    try:
        content = json.loads((folder / _KEPT).read_bytes())["lines"]
        return [(int(moment), str(text).encode()) for moment, text in content]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def has_kept(folder: Path) -> bool:
    return (folder / _KEPT).exists()


def _text(found: Iterable[Line]) -> bytes:
    return b"".join(text for _, text in found)


def _result(chosen: list[Line], end: int) -> LogsResult:
    return LogsResult(text=_text(chosen).decode(errors="replace"), next_offset=end)


def begin(stamp: str) -> int:
    """The offset of what was written since Docker's StartedAt, which it notes after the engine has begun to write."""
    return max(0, microseconds(stamp) - _NOTED_LATE)


def forget(folder: Path) -> None:
    """What was kept of a container is not what is asked for any more."""
    (folder / _KEPT).unlink(missing_ok=True)
