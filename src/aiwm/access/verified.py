"""Identities verified a moment ago: what keeps the store out of the way of most requests, for two seconds at most.

A change made in this process is felt at once; one made in another process, when the two seconds are over.
"""

from dataclasses import dataclass
from datetime import datetime

from aiwm.access.principal import Principal
from aiwm.access.records import API_KEYS, ORGANIZATIONS, SESSIONS, USERS
from aiwm.kit.clock import Clock

KEPT_SECONDS = 2.0
MOST_KEPT = 10_000
_STOOD_ON = frozenset({USERS, ORGANIZATIONS, SESSIONS, API_KEYS})


@dataclass(frozen=True, slots=True)
class Identity:
    """A principal, and when what it showed ends by itself: None for never."""

    principal: Principal
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Kept:
    identity: Identity
    until: float


class Verified:
    """By the hash of what was shown, so that no token stays in memory. The oldest gives way to the newest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[bytes, _Kept] = {}
        self.era = 0

    def get(self, shown: bytes) -> Identity | None:
        """Who showed it, unless that must be looked at again."""
        kept = self._kept.get(shown)
        if kept is None:
            return None
        ends = kept.identity.expires_at
        expired = ends is not None and ends <= self._clock.now()
        if expired or kept.until <= self._clock.monotonic():
            del self._kept[shown]
            return None
        return kept.identity

    def keep(self, shown: bytes, identity: Identity, *, era: int) -> None:
        """Keeps what was looked up while `era` was the era: with a newer one, it may have changed since."""
        if era != self.era:
            return
        while len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[shown] = _Kept(identity, self._clock.monotonic() + KEPT_SECONDS)

    def noticed(self, collection: str, record_id: str | None) -> None:
        """A record was changed or removed through the store: whoever stands on it is looked at again."""
        if collection not in _STOOD_ON:
            return
        self.era += 1
        if record_id is None or collection == ORGANIZATIONS:
            self._kept.clear()
            return
        for shown in [shown for shown, kept in self._kept.items() if record_id in _ids(kept.identity.principal)]:
            del self._kept[shown]

    def __len__(self) -> int:
        return len(self._kept)


def _ids(principal: Principal) -> tuple[str, str]:
    return principal.id, principal.credential
