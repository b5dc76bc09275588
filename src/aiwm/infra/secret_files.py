"""Secrets that one machine makes for itself: once, readable by its owner alone, never half-written."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from aiwm.kit.settings import SettingsError


def _random_key() -> str:
    return secrets.token_hex(32)


def made_once(path: Path, make: Callable[[], str] = _random_key) -> str:
    """The secret in `path`, made there (0600) when there is none yet. Raises `SettingsError`."""
    try:
        if path.exists() and (kept := path.read_text().strip()):
            return kept
        made = make()
        write_private(path, made + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot keep a secret in {path}: {error}") from error
    return made


def write_private(path: Path, content: str, *, owner: tuple[int, int] | None = None) -> None:
    """Replaces `path` by `content`, 0600; a reader sees the old or the new, also after a power loss.

    `owner` (user and group) is whom the file is to belong to when root writes it for another.
    """
    draft = path.with_name(f"{path.name}.new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        if owner is not None and os.geteuid() == 0:
            os.fchown(file.fileno(), *owner)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
