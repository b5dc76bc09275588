"""Reading an engine's rotated output: byte offsets count from the engine's first byte, whatever was thrown away."""

import json
from pathlib import Path

from aiwm.daemon.keeper import LOG, STATE
from aiwm.daemon.sizes import weight
from aiwm.protocol.node_channel import LogsResult

MOST_BYTES = 262_144
_MOST_WEIGHT = 2 * MOST_BYTES
_TAIL_BYTES = 65_536


def read_log(folder: Path, *, tail: int, offset: int | None) -> LogsResult:
    """The last `tail` lines, or up to 256 KiB from `offset` (from the oldest byte kept, if that is gone)."""
    segments = _segments(folder)
    end = segments[-1][0] + segments[-1][1] if segments else 0
    if offset is None:
        lines = _read(segments, max(0, end - MOST_BYTES), end).splitlines(keepends=True)
        chosen = b"".join(lines[len(lines) - min(tail, len(lines)) :])
        while _too_heavy(chosen):
            chosen = chosen[len(chosen) // 2 :]
        return LogsResult(text=chosen.decode(errors="replace"), next_offset=end)
    start = min(max(offset, segments[0][0] if segments else 0), end)
    chosen = _read(segments, start, min(end, start + MOST_BYTES))
    while _too_heavy(chosen):
        chosen = chosen[: len(chosen) // 2]
    return LogsResult(text=chosen.decode(errors="replace"), next_offset=start + len(chosen))


def _too_heavy(chunk: bytes) -> bool:
    """Output that is no text may weigh six times as much on the wire as on the disk."""
    return weight(chunk.decode(errors="replace")) > _MOST_WEIGHT


def last_output(folder: Path) -> str:
    """The end of what the present or latest engine wrote, without its predecessors' output."""
    segments = _segments(folder)
    end = segments[-1][0] + segments[-1][1] if segments else 0
    return _read(segments, max(_state(folder, "logStart"), end - _TAIL_BYTES), end).decode(errors="replace")


def _segments(folder: Path) -> list[tuple[int, int, Path]]:
    """(offset of its first byte, size, path) of each file, oldest first."""
    newest = folder / LOG
    if not newest.exists():
        return []
    start = _state(folder, "logBase")
    found = [(start, newest.stat().st_size, newest)]
    number = 1
    while (older := folder / f"{LOG}.{number}").exists():
        size = older.stat().st_size
        start -= size
        found.append((start, size, older))
        number += 1
    return found[::-1]


def _state(folder: Path, field: str) -> int:
    try:
        return int(json.loads((folder / STATE).read_bytes())[field])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _read(segments: list[tuple[int, int, Path]], start: int, stop: int) -> bytes:
    parts: list[bytes] = []
    for first, size, path in segments:
        begin, end = max(start, first), min(stop, first + size)
        if begin < end:
            with path.open("rb") as file:
                file.seek(begin - first)
                parts.append(file.read(end - begin))
    return b"".join(parts)
