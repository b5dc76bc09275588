"""What this node runs, on disk: read again at start, so that engines that outlived the daemon are known as its own."""

import json
import logging
import os
import shutil
from pathlib import Path

from pydantic import ValidationError

from aiwm.daemon.disk import disk_errors
from aiwm.daemon.keeper import write_atomically
from aiwm.daemon.replicas import ReplicaRecord

log = logging.getLogger(__name__)

_LEDGER = "ledger.json"
_TOMBSTONES = "tombstones.json"
MOST_TOMBSTONES = 1000


class Ledger:
    """One folder per replica, and for stopped ones the newest generation that was stopped."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._replicas = root / "replicas"
        self._replicas.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._tombstones = self._read_tombstones()

    def folder(self, replica_id: str) -> Path:
        """Where everything of a replica lies. Ids are checked on arrival: they cannot lead elsewhere."""
        return self._replicas / replica_id

    def read(self) -> list[ReplicaRecord]:
        """Everything recorded. A folder whose record cannot be read is reported and left alone."""
        records = []
        for path in sorted(self._replicas.glob(f"*/{_LEDGER}")):
            try:
                records.append(ReplicaRecord.model_validate_json(path.read_bytes()))
            except ValidationError as error:
                log.error("cannot read the ledger %s: %s", path, error)  # noqa: TRY400 - not a bug, a line is enough
        return records

    def write(self, record: ReplicaRecord) -> None:
        """On disk when this returns. Raises `AiwmError`."""
        folder = self.folder(record.replica_id)
        with disk_errors(f"cannot record replica {record.replica_id}"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(folder / _LEDGER, record.to_wire())

    def buried(self, replica_id: str) -> int | None:
        """The newest generation of this replica that was stopped."""
        return self._tombstones.get(replica_id)

    def bury(self, replica_id: str, generation: int) -> None:
        """From now on no deploy up to `generation` brings this replica back."""
        newest = max(generation, self._tombstones.pop(replica_id, 0))
        self._tombstones[replica_id] = newest
        while len(self._tombstones) > MOST_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]
        with disk_errors(f"cannot record that replica {replica_id} was stopped"):
            write_atomically(self._root / _TOMBSTONES, dict(self._tombstones))

    def forget(self, replica_id: str) -> None:
        """Removes the replica's folder; the ledger goes first, so that half a removal brings nothing back."""
        folder = self.folder(replica_id)
        (folder / _LEDGER).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def clear(self, replica_id: str) -> None:
        """Removes what an earlier engine left in the replica's folder, but not its record."""
        for entry in list(self.folder(replica_id).iterdir()) if self.folder(replica_id).exists() else []:
            if entry.name == _LEDGER:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                os.unlink(entry)

    def _read_tombstones(self) -> dict[str, int]:
        try:
            return {str(key): int(value) for key, value in json.loads((self._root / _TOMBSTONES).read_text()).items()}
        except FileNotFoundError:
            return {}
