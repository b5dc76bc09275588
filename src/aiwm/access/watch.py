"""Open connections obey too: each is judged again every two seconds against what the store says now.

Level-triggered: nobody tells a process that a user was disabled or a key revoked, it looks. One look costs one query
per kind of record, however many connections there are. `judge` decides and is pure; `Watch` is the edge.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import datetime

from aiwm.access.principal import Principal
from aiwm.access.records import API_KEYS, SESSIONS, USERS, UserRecord
from aiwm.infra.store.port import Query, Record, Store, Where
from aiwm.kit.clock import Clock
from aiwm.protocol.errors import Unauthenticated, Unavailable

log = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class Seat:
    """What one open connection stands on: its principal when last looked at, and when its token or key ends."""

    principal: Principal
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store says now: the users that seats are of, and which of their sessions and keys are still good."""

    users: Mapping[str, UserRecord] = field(default_factory=dict)
    credentials: Set[str] = frozenset()


def judge(seat: Seat, standing: Standing, *, now: datetime) -> Seat:
    """The seat with the principal as it is now; raises `Unauthenticated` when its connection must end."""
    if seat.expires_at is not None and seat.expires_at <= now:
        raise Unauthenticated("cannot go on: the token has expired; sign in again", code="TOKEN_EXPIRED")
    user = standing.users.get(seat.principal.id)
    if user is None or not user.usable:
        raise Unauthenticated("cannot go on: the user is gone or inactive", code="TOKEN_INVALID")
    if seat.principal.credential and seat.principal.credential not in standing.credentials:
        raise Unauthenticated("cannot go on: the session or API key has ended; sign in again", code="TOKEN_INVALID")
    who, roles = seat.principal, frozenset(user.roles)
    if (who.username, who.org_id, who.roles) == (user.username, user.org_id, roles):
        return seat
    return replace(seat, principal=replace(who, username=user.username, org_id=user.org_id, roles=roles))


class Watch:
    """Looks at what the store says of open connections."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, UserRecord] = {}

    async def standing(self, seats: Iterable[Seat]) -> Standing:
        """What `seats` stand on now."""
        whose = [seat.principal for seat in seats]
        users = await self._of(USERS, {who.id for who in whose})
        sessions = await self._of(SESSIONS, {who.credential for who in whose if who.scopes is None and who.credential})
        keys = await self._of(API_KEYS, {who.credential for who in whose if who.scopes is not None})
        good = {key_id for key_id, key in keys.items() if key.get("deletedAt") is None}
        self._known = {user_id: self._read(user_id, record) for user_id, record in users.items()}
        return Standing(self._known, good.union(sessions))

    def _read(self, user_id: str, record: Record) -> UserRecord:
        """Reading a record costs more than finding it: one that has not changed is read once."""
        known = self._known.get(user_id)
        return known if known is not None and known.version == record["version"] else UserRecord.model_validate(record)

    async def _of(self, collection: str, ids: set[str]) -> dict[str, Record]:
        wanted, found = sorted(ids), dict[str, Record]()
        for start in range(0, len(wanted), _AT_ONCE):
            query = Query((Where("id", "in", tuple(wanted[start : start + _AT_ONCE])),))
            found.update({str(each["id"]): each for each in await self._store.find(collection, query)})
        return found


async def look_again(look: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Calls `look` every two seconds for ever; while the store is away connections stay, as nothing is known."""
    away = False
    while True:
        await clock.sleep(EVERY_SECONDS)
        try:
            await look()
            away = False
        except Unavailable as error:
            if not away:
                log.warning("cannot look after open connections: %s", error.message)
            away = True
