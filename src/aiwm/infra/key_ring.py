"""The key ring that signs tokens, as a file: read again when it changes, and rotated without anybody noticing.

The file holds a key a line: the first signs, all verify. Beside it `<name>.retired` says until when each key that no
longer signs is to be kept, by the key's id (a hash), so that the ring itself stays as simple as a setting.
"""

import fcntl
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from aiwm.infra.secret_files import write_private
from aiwm.kit.clock import Clock, iso
from aiwm.kit.settings import SettingsError, key_ring

log = logging.getLogger(__name__)

VARIABLE = "AIWM_JWT_SECRET"
LOOKED_AT_EVERY = 1.0


class FixedKeys:
    """A ring that never changes."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys

    def current(self, *, now: bool = False) -> tuple[bytes, ...]:
        """The keys; the same tuple each time."""
        del now
        return self._keys


class FileKeys(FixedKeys):
    """The ring in a file, looked at once a second. What cannot be used is warned about, and the last ring goes on."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(_read(path))
        self._path, self._clock = path, clock
        self._stamp, self._looked_at = _stamp(path), clock.monotonic()

    def current(self, *, now: bool = False) -> tuple[bytes, ...]:
        """The keys; the same tuple until they change. `now`: looks at the file at once."""
        moment = self._clock.monotonic()
        if now or moment - self._looked_at >= LOOKED_AT_EVERY:
            self._looked_at = moment
            if (stamp := _stamp(self._path)) != self._stamp:
                self._stamp = stamp
                self._reread()
        return self._keys

    def _reread(self) -> None:
        try:
            keys = _read(self._path)
        except SettingsError as error:
            log.warning("cannot use the changed key ring, the former one goes on: %s", error)
            return
        if keys != self._keys:
            self._keys = keys
            log.info("the key ring was read again", extra={"keys": len(keys)})


def open_keys(text: str, path: str, clock: Clock) -> FixedKeys:
    """The ring of a setting: watched when it came from the file `path`. Raises `SettingsError`."""
    return FileKeys(Path(path), clock) if path else FixedKeys(key_ring(text, VARIABLE))


@dataclass(frozen=True, slots=True)
class Rotation:
    """What `rotate` did, as ids of keys."""

    signing: str
    kept: dict[str, datetime]
    removed: tuple[str, ...]


def rotate(path: Path, now: datetime, *, overlap: timedelta, add: bool = True) -> Rotation:
    """Puts a new key first (`add`), keeps the others for `overlap` at most, and removes those whose time is over.

    A key that no longer signs and of which nothing is known begins its overlap now. Raises `SettingsError`.
    """
    with _alone(path):
        keys = [key.decode() for key in _read(path)]
        if add:
            keys.insert(0, secrets.token_hex(32))
        noted = _retired(path)
        latest = now + overlap
        ends = {key: min(noted.get(key_id(key.encode()), latest), latest) for key in keys[1:]}
        kept = [key for key in keys[1:] if ends[key] > now]
        removed = tuple(key_id(key.encode()) for key in keys[1:] if key not in kept)
        until = {key_id(key.encode()): ends[key] for key in kept}
        _write(path, keys[:1] + kept, until)
    return Rotation(key_id(keys[0].encode()), until, removed)


def key_id(key: bytes) -> str:
    """What tokens call the key by: says nothing about it."""
    return hashlib.sha256(key).hexdigest()[:16]


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        return key_ring(path.read_text(), VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the key ring {path}: {error}") from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.retired")


def _retired(path: Path) -> dict[str, datetime]:
    try:
        noted = json.loads(_sidecar(path).read_text())
        return {str(name): datetime.fromisoformat(until) for name, until in noted.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"cannot read {_sidecar(path)}: {error}; remove it to begin all overlaps anew") from error


def _write(path: Path, keys: list[str], until: dict[str, datetime]) -> None:
    """The notes first: a crash between the two leaves notes of a key that is not there, which harms nobody."""
    try:
        owner = path.stat()
        notes = json.dumps({name: iso(moment) for name, moment in until.items()})
        for target, content in ((_sidecar(path), notes), (path, "\n".join(keys))):
            write_private(target, content + "\n", owner=(owner.st_uid, owner.st_gid))
    except OSError as error:
        raise SettingsError(
            f"cannot write the key ring {path}: {error.strerror}; rotate it where it is kept, new key first"
        ) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One rotation at a time."""
    try:
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"cannot rotate the key ring {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
