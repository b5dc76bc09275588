"""`-f file.yaml`: resources as people write them down, one or several documents in a file."""

import sys
from pathlib import Path

import yaml

from aiwm.protocol.errors import Malformed


def read_documents(file: Path) -> list[dict[str, object]]:
    """The documents of a YAML (or JSON) file, `-` being standard input. Raises `Malformed`."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Malformed(f"cannot read {file}: {error}", code="FILE_UNREADABLE") from error
    try:
        documents = [each for each in yaml.safe_load_all(text) if each is not None]
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise Malformed(f"cannot read {file} as YAML: {reason}", code="FILE_UNREADABLE") from error
    if not documents:
        raise Malformed(f"cannot use {file}: it holds no document", code="FILE_EMPTY")
    for number, each in enumerate(documents, 1):
        if not isinstance(each, dict):
            raise Malformed(
                f"cannot use {file}: document {number} is not a list of `field: value`", code="FILE_UNREADABLE"
            )
    return documents


def differences(wanted: dict[str, object], current: dict[str, object]) -> dict[str, object]:
    """The fields of `wanted` that are not so in `current`."""
    return {name: value for name, value in wanted.items() if not _fits(value, current.get(name))}


def _fits(wanted: object, current: object) -> bool:
    """Inside an object that is a fixed shape, only what is named counts; an open map must be the same."""
    if isinstance(wanted, dict) and isinstance(current, dict):
        left = {name: value for name, value in current.items() if value is not None}
        return left == {name: value for name, value in wanted.items() if value is not None}
    return wanted == current
