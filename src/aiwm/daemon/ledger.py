"""What this node runs, on disk: read again at start, so that engines that outlived the daemon are known as its own.

A full or broken disk costs nothing that matters: what could not be written is kept in memory and written when there is
room again, and a record that cannot be read is replaced by its last copy, else reported and left alone.
"""

import json
import logging
import os
import shutil
from pathlib import Path

from pydantic import ValidationError

from aiwm.daemon.disk import disk_errors
from aiwm.daemon.keeper import LOCK, write_atomically
from aiwm.daemon.replicas import ReplicaRecord
from aiwm.protocol.errors import AiwmError

log = logging.getLogger(__name__)

_LEDGER = "ledger.json"
_COPY = "ledger.copy.json"
_TOMBSTONES = "tombstones.json"
# A keeper that is in no file any more is still found by its lock.
_KEPT = frozenset({_LEDGER, LOCK})
MOST_TOMBSTONES = 1000


class Ledger:
    """One folder per replica, and for stopped ones the newest generation that was stopped.

    `unreadable` names what `read` could not make sense of, by the replica's id or the file's name.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._replicas = root / "replicas"
        self._replicas.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.unreadable: dict[str, str] = {}
        self._unwritten: dict[str, ReplicaRecord] = {}
        self._unburied = False
        self._tombstones = self._read_tombstones()

    @property
    def behind(self) -> int:
        """How many records are newer in memory than on disk."""
        return len(self._unwritten) + self._unburied

    def folder(self, replica_id: str) -> Path:
        """Where everything of a replica lies. Ids are checked on arrival: they cannot lead elsewhere."""
        return self._replicas / replica_id

    def read(self) -> list[ReplicaRecord]:
        """Everything recorded."""
        folders = sorted(path for path in self._replicas.iterdir() if path.is_dir())
        return [record for folder in folders if (record := self._read_one(folder)) is not None]

    def without_record(self) -> list[str]:
        """Folders that a removal left behind half done: they hold no record of anything."""
        folders = [path for path in self._replicas.iterdir() if path.is_dir()]
        return [path.name for path in folders if not _any_of(path, (_LEDGER, _COPY))]

    def _read_one(self, folder: Path) -> ReplicaRecord | None:
        reason = ""
        for name in (_LEDGER, _COPY):
            try:
                record = ReplicaRecord.model_validate_json((folder / name).read_bytes())
            except FileNotFoundError:
                continue
            except (ValidationError, OSError) as error:
                reason = reason or f"cannot read the ledger {folder / name}: {_cause(error)}"
                continue
            if record.replica_id != folder.name:
                reason = reason or f"cannot use the ledger {folder / name}: it is about {record.replica_id}"
                continue
            if reason:
                log.warning("%s; an older copy is used", reason)
            return record
        if reason:
            log.error("%s", reason)
            self.unreadable[folder.name] = reason
        return None

    def write(self, record: ReplicaRecord) -> None:
        """On disk when this returns. Raises `AiwmError`, and then writes it again in `catch_up`."""
        folder = self.folder(record.replica_id)
        self.unreadable.pop(record.replica_id, None)
        try:
            with disk_errors(f"cannot record replica {record.replica_id}"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_atomically(folder / _LEDGER, record.to_wire())
        except AiwmError:
            self._unwritten[record.replica_id] = record
            raise
        self._unwritten.pop(record.replica_id, None)

    def copy(self, record: ReplicaRecord) -> None:
        """Keeps a second copy, by which an engine is known when the first cannot be read. Raises `AiwmError`."""
        with disk_errors(f"cannot record replica {record.replica_id}"):
            write_atomically(self.folder(record.replica_id) / _COPY, record.to_wire())

    def catch_up(self) -> None:
        """Writes what an earlier failure of the disk kept from being written, as far as that works now."""
        try:
            for record in list(self._unwritten.values()):
                self.write(record)
            if self._unburied:
                self._write_tombstones("the stopped replicas")
        except AiwmError as error:
            log.debug("still behind: %s", error.message)

    def drop(self, replica_id: str) -> None:
        """What could not be written of this replica is no longer to be."""
        self._unwritten.pop(replica_id, None)

    def buried(self, replica_id: str) -> int | None:
        """The newest generation of this replica that was stopped."""
        return self._tombstones.get(replica_id)

    def bury(self, replica_id: str, generation: int) -> None:
        """From now on no deploy up to `generation` brings this replica back.

        Raises `AiwmError` when that could not be written; it holds all the same while this daemon runs.
        """
        newest = max(generation, self._tombstones.pop(replica_id, 0))
        self._tombstones[replica_id] = newest
        while len(self._tombstones) > MOST_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]
        self._write_tombstones(f"that replica {replica_id} was stopped")

    def _write_tombstones(self, what: str) -> None:
        self._unburied = True
        with disk_errors(f"cannot record {what}"):
            write_atomically(self._root / _TOMBSTONES, dict(self._tombstones))
        self._unburied = False

    def forget(self, replica_id: str) -> None:
        """Removes the replica's folder; the ledger goes first, so that half a removal brings nothing back.

        Raises `AiwmError`.
        """
        folder = self.folder(replica_id)
        self.drop(replica_id)
        with disk_errors(f"cannot remove replica {replica_id}"):
            for name in (_LEDGER, _COPY):
                (folder / name).unlink(missing_ok=True)
        self.unreadable.pop(replica_id, None)
        shutil.rmtree(folder, ignore_errors=True)

    def clear(self, replica_id: str) -> None:
        """Removes what an earlier engine left in the replica's folder, but not its record. Raises `AiwmError`."""
        with disk_errors(f"cannot clear the folder of replica {replica_id}"):
            for entry in list(self.folder(replica_id).iterdir()) if self.folder(replica_id).exists() else []:
                if entry.name in _KEPT:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    os.unlink(entry)

    def _read_tombstones(self) -> dict[str, int]:
        path = self._root / _TOMBSTONES
        try:
            return {str(key): int(value) for key, value in json.loads(path.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
            self.unreadable[_TOMBSTONES] = f"cannot read which replicas were stopped from {path}: {_cause(error)}"
            log.warning("%s; a late command may bring one back", self.unreadable[_TOMBSTONES])
            return {}


def _any_of(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).exists() for name in names)


def _cause(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return f"{error.error_count()} fields do not fit, the first: {error.errors(include_url=False)[0]['msg']}"
    return getattr(error, "strerror", None) or str(error)
