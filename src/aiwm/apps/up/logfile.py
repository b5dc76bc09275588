"""Log files of child processes, which write by an inherited descriptor and cannot turn the file themselves."""

import json
import os
import shutil
from pathlib import Path

MOST_BYTES = 10 * 1024 * 1024
_TAIL_BYTES = 4096


def turn(path: Path, most: int = MOST_BYTES) -> None:
    """Moves the content of a log that grew beyond `most` bytes to `NAME.1`; its writer, appending, goes on in place."""
    if path.exists() and path.stat().st_size > most:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)


def last_line(path: Path, since: int = 0) -> str:
    """What the last line after byte `since` says, or nothing; of a JSON line its message and its error."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        size = path.stat().st_size
        file.seek(max(0, size - _TAIL_BYTES, since if since <= size else 0))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return _plain(lines[-1]) if lines else ""


def _plain(line: str) -> str:
    try:
        entry = json.loads(line)
        trace = str(entry.get("trace", "")).strip().splitlines()
        return ": ".join([str(entry["message"]), *trace[-1:]])
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
