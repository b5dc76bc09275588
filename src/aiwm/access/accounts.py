"""Users as records: who may be made, changed and removed by whom, and that one universe.owner is always left."""

from collections.abc import Sequence

from aiwm.access import policy, rules
from aiwm.access.organizations import Organizations
from aiwm.access.passwords import Passwords
from aiwm.access.principal import Principal
from aiwm.access.records import SESSIONS, USERS, UserRecord, user_view
from aiwm.infra.store.port import Query, Store, Where
from aiwm.infra.store.records import Records, changed_by_user, new_base, soft_deleted
from aiwm.kit.clock import Clock
from aiwm.protocol.errors import Conflict, Denied, FieldError, Invalid, NotFound
from aiwm.protocol.resources.access import User, UserCreate
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import Role

_OWNERS = (
    Where("roles", "has", Role.UNIVERSE_OWNER.value),
    Where("isActive", "eq", True),
    Where("deletedAt", "eq", None),
)


class Accounts:
    """Every method takes the caller as it acts with its permission (`policy.acting`)."""

    def __init__(self, store: Store, organizations: Organizations, passwords: Passwords, clock: Clock) -> None:
        self._store, self._organizations, self._passwords, self._clock = store, organizations, passwords, clock
        self._users = Records(store, USERS, UserRecord)

    async def seen_by(self, who: Principal, user_id: str) -> UserRecord:
        """The user's record; `NotFound` (`USER_NOT_FOUND`) also when it is not the caller's to see."""
        found = await self._users.get(user_id)
        if found is None or found.deleted_at is not None or not policy.visible(who, found.owner.org_id):
            raise NotFound(f"cannot find user {user_id}: there is none of that id", code="USER_NOT_FOUND")
        return found

    async def managed_by(self, who: Principal, user_id: str) -> UserRecord:
        """The same for a caller that may write users; `Denied` when the user's roles reach further than its own."""
        record = await self.seen_by(who, user_id)
        rules.check_manages(who, record)
        return record

    async def page(self, query: Query) -> tuple[Sequence[User], int]:
        """A page of users and how many there are in all."""
        return [user_view(each) for each in await self._users.find(query)], await self._users.count(query.where)

    async def create(self, who: Principal, params: UserCreate) -> User:
        """A new user; `Conflict` NAME_TAKEN, `Denied`, or `Invalid` for an organization that is not there to see."""
        org_id = params.org_id or who.org_id
        if params.org_id is not None and not await self._organizations.is_seen_by(who, params.org_id):
            raise _no_organization(params.org_id)
        rules.check_grants(who, params.roles)
        rules.check_roles(params.roles, org_id)
        hashed = await self._passwords.hash(params.password)
        owner = Owner(org_id=org_id, user_id=who.id)
        record = UserRecord.model_validate(
            {
                **new_base("user", owner=owner, by=who.id, at=self._clock.now()),
                "unique_key": params.username.lower(),
                "username": params.username,
                "password_hash": hashed,
                "org_id": org_id,
                "roles": sorted(set(params.roles)),
                "metadata": params.metadata,
            }
        )
        try:
            return user_view(await self._users.insert(record))
        except Conflict as taken:
            raise Conflict(
                f"cannot use the username {params.username!r}: another user has it", code="NAME_TAKEN"
            ) from taken

    async def change(self, who: Principal, record: UserRecord, changes: dict[str, object]) -> User:
        """Applies what the caller set; `Denied`, `Conflict` LAST_OWNER, `Stale` when somebody else came first."""
        changed = changed_by_user(record, changes, by=who.id, at=self._clock.now())
        if "roles" in changes:
            rules.check_grants(who, changed.roles)
            rules.check_roles(changed.roles, record.org_id)
            changed = changed.model_copy(update={"roles": sorted(set(changed.roles))})
        changed = await self._replace(record, changed)
        if not changed.is_active:
            await self._end_sessions(record.id)
        return user_view(changed)

    async def delete(self, who: Principal, record: UserRecord) -> None:
        """Deletes softly and signs the user out; `Conflict` LAST_OWNER."""
        await self._replace(record, soft_deleted(record, by=who.id, at=self._clock.now()))
        await self._end_sessions(record.id)

    async def set_password(self, who: Principal, record: UserRecord, password: str) -> None:
        """A new password; whoever was signed in as the user no longer is."""
        hashed = await self._passwords.hash(password)
        now = self._clock.now()
        await self._users.update(
            record.id, lambda user: changed_by_user(user, {"password_hash": hashed}, by=who.id, at=now)
        )
        await self._end_sessions(record.id)

    async def _replace(self, before: UserRecord, after: UserRecord) -> UserRecord:
        """Writes `after`, unless no universe.owner would be left.

        Two owners may go at the same moment, each seeing the other: so it is looked again afterwards, and undone.
        """
        goes = rules.keeps_installation(before) and not rules.keeps_installation(after)
        if goes and not await self._users.count((*_OWNERS, Where("id", "ne", before.id))):
            raise rules.last_owner(before)
        written = await self._users.replace(after)
        if goes and not await self._users.count(_OWNERS):
            await self._users.update(before.id, lambda now: before.model_copy(update={"version": now.version}))
            raise rules.last_owner(before)
        return written

    async def _end_sessions(self, user_id: str) -> None:
        await self._store.delete_range(SESSIONS, (Where("userId", "eq", user_id),))


def check_password_of(who: Principal, record: UserRecord) -> None:
    """Raises `Denied` unless it is the caller's own password, or the caller manages the user.

    An API key sets none: it would make itself a whole sign-in that outlives it.
    """
    if who.scopes is not None:
        raise Denied("cannot change a password with an API key: sign in", code="SCOPE_MISSING")
    if who.id == record.id:
        return
    if not policy.may(who, "users.write"):
        raise Denied(f"cannot change the password of {record.username}: it is another's, and you do not manage users")
    rules.check_manages(who, record)


def _no_organization(org_id: str) -> Invalid:
    reason = f"{org_id} does not exist, or is another than yours"
    code = "ORGANIZATION_NOT_FOUND"
    fields = [FieldError(field="orgId", message=reason, code=code)]
    return Invalid(f"cannot create the user: orgId {reason}", code=code, fields=fields)
