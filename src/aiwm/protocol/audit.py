"""The audit log on the wire, and the chain that holds it together: each entry carries the hash of the one before.

An entry's hash is the SHA-256 of its canonical JSON (keys sorted, no blanks, UTF-8, fields without a value left out)
without the hash itself, so whoever holds an exported log can check it with nothing of ours.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from aiwm.protocol.base import Timestamp, View

FIRST = "0" * 64
"""What the first entry carries as the hash of the one before it."""

Category = Literal["signin", "denial", "mutation", "token", "secret"]
Outcome = Literal["ok", "denied", "failed"]


class AuditActor(View):
    """Who: `kind` and `id` where credentials were verified, else the name it claimed, if any, and its address."""

    kind: str | None = None
    id: str | None = None
    username: str | None = None
    org_id: str | None = None
    address: str | None = None


class AuditTarget(View):
    """What was acted on, and whose it is: `kind` is the resource's first path segment."""

    kind: str
    id: str | None = None
    org_id: str | None = None


class AuditEntry(View):
    """One deed. `code` and `status` are the answer's; `repeated` counts like denials left out since the last entry."""

    seq: int
    time: Timestamp
    category: Category
    action: str
    actor: AuditActor
    target: AuditTarget
    outcome: Outcome
    status: int | None = None
    code: str | None = None
    repeated: int = 0
    correlation_id: str | None = None
    previous: str
    hash: str = ""

    def sealed(self) -> "AuditEntry":
        """The entry with its hash."""
        return self.model_copy(update={"hash": hash_of(self.to_wire())})


def hash_of(entry: Mapping[str, object]) -> str:
    """The hash that an entry, as JSON has it, must carry."""
    bare = {name: value for name, value in entry.items() if name != "hash"}
    text = json.dumps(_given(bare), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _given(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _given(each) for name, each in value.items() if each is not None}
    return value


@dataclass
class ChainCheck:
    """Reads entries in order; `broken` says where the first one does not fit, None as long as all do."""

    count: int = 0
    head: str = FIRST
    seq: int = 0
    broken: str | None = None

    def add(self, entry: Mapping[str, object]) -> bool:
        """Whether the chain holds up to and with `entry`."""
        if self.broken is None:
            self.broken = self._fault(entry)
        if self.broken is not None:
            return False
        self.count, self.seq, self.head = self.count + 1, self.seq + 1, str(entry["hash"])
        return True

    def _fault(self, entry: Mapping[str, object]) -> str | None:
        expected = self.seq + 1
        if entry.get("seq") != expected:
            return f"entry {expected} is missing: {entry.get('seq')!r} is where it should be"
        if entry.get("previous") != self.head:
            return f"entry {expected} does not follow the one before: it carries another hash of it"
        if entry.get("hash") != hash_of(entry):
            return f"entry {expected} was changed: its hash does not fit what it says"
        return None
