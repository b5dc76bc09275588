"""Which replica holds how much of a GPU, and whose claim counts where they do not all fit: pure."""

from collections.abc import Iterable
from dataclasses import dataclass

SHARED_PERCENT = 95
"""How much of a GPU's memory replicas may share; the rest is for the driver and for what each process needs besides."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A replica's part of a GPU: `memory` MiB of it, or, with None, the whole of it."""

    replica_id: str
    memory: int | None


def to_share(total: int | None) -> int | None:
    """The MiB of a GPU of `total` that replicas may share; None when it does not tell its memory."""
    return None if total is None else total * SHARED_PERCENT // 100


def room(claims: Iterable[Claim], total: int | None) -> int:
    """The MiB one more replica may have of a GPU; none beside one that has the whole, nor where that is unknown."""
    left = to_share(total) or 0
    for each in claims:
        if each.memory is None:
            return 0
        left -= each.memory
    return max(left, 0)


def standing(claims: Iterable[Claim], total: int | None) -> set[str]:
    """Whose claims count: the oldest's (ids sort by birth), and of the others each that fits beside those before it."""
    limit, held, found = to_share(total), 0, set[str]()
    for each in sorted(claims, key=lambda claim: claim.replica_id):
        if each.memory is None:
            if not found:
                return {each.replica_id}
        elif limit is None or held + each.memory <= limit:
            held += each.memory
            found.add(each.replica_id)
    return found
