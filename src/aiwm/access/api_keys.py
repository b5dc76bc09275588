"""API keys: what programs sign in with. Shown once, kept as a hash, good within their scopes and their user's rights.

A key names its record and ends in 32 random bytes, so a plain SHA-256 keeps it: there is nothing to guess, and
looking it up costs one read by id and no argon2.
"""

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from aiwm.access.principal import Principal
from aiwm.access.records import API_KEYS, ApiKeyRecord
from aiwm.access.rules_keys import KEY_PREFIX, lifetime, revoked
from aiwm.access.service import Users
from aiwm.infra.store.port import Index, Query, Store, Where
from aiwm.infra.store.records import Records, changed_by_user, new_base
from aiwm.kit.clock import Clock
from aiwm.protocol.errors import Conflict, NotFound, Stale, Unauthenticated
from aiwm.protocol.resources.api_keys import ApiKey, ApiKeyCreate, ApiKeyMade
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import PrincipalKind

USE_NOTED_EVERY = timedelta(minutes=1)
_HINT = 4
_ID = "key-"


class ApiKeys:
    """Every method about one key takes its record; who may see it is the routes' question."""

    def __init__(self, store: Store, users: Users, clock: Clock) -> None:
        self._store, self._users, self._clock = store, users, clock
        self._keys = Records(store, API_KEYS, ApiKeyRecord)

    async def prepare(self) -> None:
        """Makes the indexes."""
        await self._store.ensure_index(Index(API_KEYS, ("uniqueKey",), unique=True))
        await self._store.ensure_index(Index(API_KEYS, ("owner.userId", "createdAt")))
        await self._store.ensure_index(Index(API_KEYS, ("parentId",)))

    async def create(self, who: Principal, params: ApiKeyCreate) -> ApiKeyMade:
        """A new key of the caller's own, shown this once; `Conflict` NAME_TAKEN."""
        now = self._clock.now()
        parent = await self._keys.get(who.credential) if who.scopes is not None else None
        base = new_base("key", owner=Owner(org_id=who.org_id, user_id=who.id), by=who.id, at=now)
        key = f"{KEY_PREFIX}{str(base['id']).removeprefix(_ID)}_{secrets.token_hex(32)}"
        record = ApiKeyRecord.model_validate(
            {
                **base,
                "name": params.name,
                "metadata": params.metadata,
                "unique_key": _unique_key(who.org_id, params.name),
                "digest": _digest(key),
                "hint": key[-_HINT:],
                "scopes": sorted(set(params.scopes)),
                "expires_at": lifetime(params.expires_in, parent.expires_at if parent else None, now),
                "parent_id": parent.id if parent else None,
            }
        )
        try:
            record = await self._keys.insert(record)
        except Conflict as taken:
            raise _name_taken(params.name) from taken
        return ApiKeyMade.model_validate({**key_view(record).model_dump(), "key": key})

    async def record(self, key_id: str) -> ApiKeyRecord | None:
        """The record, unless it was revoked or never was."""
        found = await self._keys.get(key_id)
        return None if found is None or found.deleted_at is not None else found

    async def page(self, query: Query) -> tuple[Sequence[ApiKey], int]:
        """A page of keys and how many there are in all."""
        return [key_view(each) for each in await self._keys.find(query)], await self._keys.count(query.where)

    async def change(self, record: ApiKeyRecord, changes: dict[str, object], *, by: str) -> ApiKey:
        """Applies what a user set; `Stale` when somebody else came first, `NotFound`, `Conflict` NAME_TAKEN."""
        now = self._clock.now()

        def changed(current: ApiKeyRecord) -> ApiKeyRecord:
            if current.deleted_at is not None:
                raise no_key(record.id)
            if current.resource_version != record.resource_version:
                raise Stale(f"cannot change {record.id}: it changed in the meantime")
            after = changed_by_user(current, changes, by=by, at=now)
            return after.model_copy(update={"unique_key": _unique_key(after.owner.org_id, after.name)})

        try:
            return key_view(await self._keys.update(record.id, changed))
        except Conflict as taken:
            raise _name_taken(str(changes.get("name"))) from taken

    async def revoke(self, record: ApiKeyRecord, *, by: str) -> None:
        """Ends a key, and those that were made with it."""
        now = self._clock.now()
        await self._keys.update(record.id, lambda current: revoked(current, by=by, at=now))
        for child in await self._keys.find(Query((Where("parentId", "eq", record.id), Where("deletedAt", "eq", None)))):
            await self.revoke(child, by=by)

    async def principal(self, key: str) -> tuple[Principal, datetime | None]:
        """Who brings `key`, and until when it is good.

        `Unauthenticated`: `TOKEN_EXPIRED`, or `TOKEN_INVALID` for one that was revoked, never was, or whose user is
        gone or inactive.
        """
        record = await self._keys.get(_ID + key.removeprefix(KEY_PREFIX).partition("_")[0])
        now = self._clock.now()
        if record is None or not hmac.compare_digest(record.digest, _digest(key)) or record.deleted_at is not None:
            raise _invalid("it was revoked, or never was one")
        if record.expires_at is not None and record.expires_at <= now:
            raise Unauthenticated("cannot let you in: the API key has expired; make another", code="TOKEN_EXPIRED")
        user = await self._users.users.get(record.owner.user_id or "")
        if user is None or not user.usable:
            raise _invalid("its user is gone or inactive")
        await self._note_use(record, now)
        who = Principal(
            PrincipalKind.USER,
            user.id,
            user.username,
            user.org_id,
            frozenset(user.roles),
            scopes=frozenset(record.scopes),
            credential=record.id,
        )
        return who, record.expires_at

    async def _note_use(self, record: ApiKeyRecord, now: datetime) -> None:
        """Once a minute at most; whoever changed the record meanwhile goes before."""
        if record.last_used_at is None or now - record.last_used_at >= USE_NOTED_EVERY:
            with contextlib.suppress(Stale):
                await self._keys.replace(record.model_copy(update={"last_used_at": now}))


def key_view(record: ApiKeyRecord) -> ApiKey:
    """The resource of a key, which does not hold the key."""
    own = ("name", "hint", "scopes", "expires_at", "last_used_at")
    values = {name: getattr(record, name) for name in own}
    return ApiKey.model_validate({**record.base(), **values, "api_key_id": record.id})


def no_key(key_id: str) -> NotFound:
    return NotFound(f"cannot find API key {key_id}: there is none of that id", code="API_KEY_NOT_FOUND")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def _unique_key(org_id: str | None, name: str) -> str:
    return f"{org_id or ''}/{name}"


def _name_taken(name: str) -> Conflict:
    return Conflict(f"cannot use the name {name!r}: another API key has it", code="NAME_TAKEN")


def _invalid(cause: str) -> Unauthenticated:
    return Unauthenticated(f"cannot accept the API key: {cause}", code="TOKEN_INVALID")
