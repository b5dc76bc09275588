"""The service's settings on disk, as systemd reads an `EnvironmentFile`. Pure."""

import re
from collections.abc import Mapping

_ASSIGNMENT = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_PLAIN_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([^\"'\\]*)")
_HEAD = "# Written by `aiwm node install`. Then: systemctl restart aiwm-node; engines go on.\n"


def write_environment(values: Mapping[str, str]) -> str:
    """The file's text; values are of printable characters, as a line cannot hold a line's end."""
    return _HEAD + "".join(f'{name}="{_escape(value)}"\n' for name, value in sorted(values.items()))


def read_environment(text: str) -> dict[str, str]:
    """What `write_environment` wrote, and lines that somebody added plainly; others are left out."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := _ASSIGNMENT.fullmatch(line.strip()):
            found[match[1]] = re.sub(r"\\(.)", r"\1", match[2])
        elif match := _PLAIN_ASSIGNMENT.fullmatch(line.strip()):
            found[match[1]] = match[2].strip()
    return found


def _escape(value: str) -> str:
    return re.sub(r'([\\"`$])', r"\\\1", value)
