"""Reading an engine's rotated output: byte offsets count from the engine's first byte, whatever was thrown away.

The keeper rotates while this reads, so a reading that a rotation came into is done again.
"""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from aiwm.daemon.keeper import LOG, STATE
from aiwm.daemon.sizes import weight
from aiwm.protocol.node_channel import LogsResult

MOST_BYTES = 262_144
_MOST_WEIGHT = 2 * MOST_BYTES
_TAIL_BYTES = 65_536
_ATTEMPTS = 10
_Segments = list[tuple[int, int, BinaryIO]]


def read_log(folder: Path, *, tail: int, offset: int | None) -> LogsResult:
    """The last `tail` lines, or up to 256 KiB from `offset` (from the oldest byte kept, if that is gone)."""
    if offset is None:
        chosen, end = _undisturbed(folder, lambda segments, end: (_last(segments, end, tail), end))
        while too_heavy(chosen):
            chosen = chosen[len(chosen) // 2 :]
        return LogsResult(text=chosen.decode(errors="replace"), next_offset=end)

    def after(segments: _Segments, end: int) -> tuple[bytes, int]:
        start = min(max(offset, segments[0][0] if segments else 0), end)
        return _read(segments, start, min(end, start + MOST_BYTES)), start

    chosen, start = _undisturbed(folder, after)
    while too_heavy(chosen):
        chosen = chosen[: len(chosen) // 2]
    return LogsResult(text=chosen.decode(errors="replace"), next_offset=start + len(chosen))


def _last(segments: _Segments, end: int, tail: int) -> bytes:
    lines = _read(segments, max(0, end - MOST_BYTES), end).splitlines(keepends=True)
    return b"".join(lines[len(lines) - min(tail, len(lines)) :])


def too_heavy(chunk: bytes) -> bool:
    """Output that is no text may weigh six times as much on the wire as on the disk."""
    return weight(chunk.decode(errors="replace")) > _MOST_WEIGHT


def last_output(folder: Path) -> str:
    """The end of what the present or latest engine wrote, without its predecessors' output."""
    begin = _state(folder, "logStart")
    chosen, _ = _undisturbed(folder, lambda segments, end: (_read(segments, max(begin, end - _TAIL_BYTES), end), end))
    return chosen.decode(errors="replace")


def _undisturbed(folder: Path, reading: Callable[[_Segments, int], tuple[bytes, int]]) -> tuple[bytes, int]:
    """What `reading` makes of the files while none of them moved.

    Of output that runs away faster than it can be read it is the last reading, whose offset may be off.
    """
    found: tuple[bytes, int] = b"", 0
    for _ in range(_ATTEMPTS):
        base = _state(folder, "logBase")
        with contextlib.ExitStack() as held:
            segments = _segments(folder, base, held)
            found = reading(segments, segments[-1][0] + segments[-1][1] if segments else 0)
        if _state(folder, "logBase") == base:
            break
    return found


def _segments(folder: Path, base: int, held: contextlib.ExitStack) -> _Segments:
    """(offset of its first byte, size, the file) of each, oldest first; open, so that none is rotated away unread."""
    # Within a rotation there is no newest for an instant, and on a full disk for longer.
    newest = _open(folder / LOG, held)
    found = [] if newest is None else [(base, os.fstat(newest.fileno()).st_size, newest)]
    start, number = base, 1
    while (older := _open(folder / f"{LOG}.{number}", held)) is not None:
        size = os.fstat(older.fileno()).st_size
        start -= size
        found.append((start, size, older))
        number += 1
    return found[::-1]


def _open(path: Path, held: contextlib.ExitStack) -> BinaryIO | None:
    try:
        return held.enter_context(path.open("rb"))
    except OSError:
        return None


def _state(folder: Path, field: str) -> int:
    try:
        return int(json.loads((folder / STATE).read_bytes())[field])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _read(segments: _Segments, start: int, stop: int) -> bytes:
    parts: list[bytes] = []
    for first, size, file in segments:
        begin, end = max(start, first), min(stop, first + size)
        if begin < end:
            file.seek(begin - first)
            parts.append(file.read(end - begin))
    return b"".join(parts)
