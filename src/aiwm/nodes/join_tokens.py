"""Join tokens as records: made, listed, changed, revoked, found by what a machine shows, and in time forgotten.

A token names its record and ends in 32 random bytes, so a plain SHA-256 keeps it: there is nothing to guess that a
slow hash would protect, and looking it up costs one read by id.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import timedelta

from aiwm.infra.store.port import Condition, Index, Query, Store, Where
from aiwm.infra.store.records import Records, changed_by_user, new_base, soft_deleted
from aiwm.kit.clock import Clock
from aiwm.kit.ids import new_id
from aiwm.nodes import join_rules
from aiwm.nodes.join_records import JOIN_TOKENS, JoinTokenRecord, join_token_view
from aiwm.protocol.errors import FieldError, Invalid, NotFound, Stale
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.join_tokens import JoinToken, JoinTokenCreate, JoinTokenMade, JoinTokenStatus

PREFIX = "aiwm_join_"
KEPT = timedelta(days=7)
_HINT = 4
_ID = "join-"


def digest(secret: str) -> str:
    """How a join token or join key is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


def id_in(token: str) -> str:
    """The id of the record that `token` names, whether there is one or not."""
    return _ID + token.removeprefix(PREFIX).partition("_")[0][:64]


class JoinTokens:
    """Every method about one token takes its record; who may see it is the routes' question."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._tokens = Records(store, JOIN_TOKENS, JoinTokenRecord)

    async def prepare(self) -> None:
        """Makes the indexes."""
        await self._store.ensure_index(Index(JOIN_TOKENS, ("owner.orgId", "createdAt")))
        await self._store.ensure_index(Index(JOIN_TOKENS, ("expiresAt",)))

    async def create(self, params: JoinTokenCreate, *, owner: Owner, by: str) -> JoinTokenMade:
        """A new token, shown this once. Those that ended more than a week ago are forgotten meanwhile."""
        now = self._clock.now()
        await self._store.delete_range(JOIN_TOKENS, (Where("expiresAt", "lt", now - KEPT),))
        base = new_base("join", owner=owner, by=by, at=now)
        token = f"{PREFIX}{str(base['id']).removeprefix(_ID)}_{secrets.token_hex(32)}"
        readmits = params.node_id is not None
        record = JoinTokenRecord.model_validate(
            {
                **base,
                "metadata": params.metadata,
                "digest": digest(token),
                "hint": token[-_HINT:],
                "role": [] if readmits else params.role,
                "labels": params.labels,
                "node_id": params.node_id or new_id("node"),
                "readmits": readmits,
                "expires_at": now + timedelta(seconds=params.expires_in),
            }
        )
        record = await self._tokens.insert(record)
        return JoinTokenMade.model_validate({**join_token_view(record, now).model_dump(), "token": token})

    async def record(self, token_id: str) -> JoinTokenRecord | None:
        """The record, unless it was revoked or never was."""
        found = await self._tokens.get(token_id)
        return None if found is None or found.deleted_at is not None else found

    async def shown(self, token: str) -> JoinTokenRecord | None:
        """The record of a token that somebody shows; None for one that was revoked or never was."""
        record = await self.record(id_in(token))
        return record if record is not None and hmac.compare_digest(record.digest, digest(token)) else None

    def view(self, record: JoinTokenRecord) -> JoinToken:
        """The resource of a record."""
        return join_token_view(record, self._clock.now())

    async def page(self, query: Query) -> tuple[Sequence[JoinToken], int]:
        """A page of tokens and how many there are in all."""
        return [self.view(each) for each in await self._tokens.find(query)], await self._tokens.count(query.where)

    def with_status(self, status: str | None) -> tuple[Condition, ...]:
        """The conditions that keep a query to tokens of that status; none without one."""
        now = self._clock.now()
        unused = Where("usedAt", "eq", None)
        match status:
            case None:
                return ()
            case JoinTokenStatus.USED:
                return (Where("usedAt", "ne", None),)
            case JoinTokenStatus.UNUSED:
                return (unused, Where("expiresAt", "gt", now))
            case JoinTokenStatus.EXPIRED:
                return (unused, Where("expiresAt", "lte", now))
        message = f"can be {', '.join(JoinTokenStatus)}"
        field = FieldError(field="filter[status]", message=message, code="QUERY_INVALID")
        raise Invalid(f"cannot list: filter[status] {message}", fields=[field])

    async def change(self, record: JoinTokenRecord, changes: dict[str, object], *, by: str) -> JoinToken:
        """Applies what a user set; `Stale` when another did so first, `NotFound` when it was revoked meanwhile."""
        now = self._clock.now()

        def changed(current: JoinTokenRecord) -> JoinTokenRecord:
            if current.deleted_at is not None:
                raise no_join_token(record.id)
            if current.resource_version != record.resource_version:
                raise Stale(f"cannot change {record.id}: it changed in the meantime")
            return changed_by_user(current, changes, by=by, at=now)

        return self.view(await self._tokens.update(record.id, changed))

    async def revoke(self, record: JoinTokenRecord, *, by: str) -> None:
        """Ends a token: nobody joins by it any more. Who joined by it before stays."""
        now = self._clock.now()

        def revoked(current: JoinTokenRecord) -> JoinTokenRecord:
            return current if current.deleted_at is not None else soft_deleted(current, by=by, at=now)

        await self._tokens.update(record.id, revoked)

    async def readmit(self, record: JoinTokenRecord, key: str | None) -> None:
        """Uses the token up for the node it readmits; of many at once one succeeds, and it may come again."""
        now = self._clock.now()
        await self._tokens.update(record.id, lambda current: join_rules.readmitted(current, key, now))

    async def note_used(self, record: JoinTokenRecord) -> None:
        """Shows the token as used by its new node; `Unauthenticated` when it was revoked in the meantime."""
        now = self._clock.now()
        await self._tokens.update(record.id, lambda current: join_rules.noted(current, now))


def no_join_token(token_id: str) -> NotFound:
    """The answer about a token that is not there, or not the caller's to see."""
    return NotFound(f"cannot find join token {token_id}: there is none of that id", code="JOIN_TOKEN_NOT_FOUND")
