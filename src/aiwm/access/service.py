"""Who there is: users by name and by organization."""

from collections.abc import Sequence

from aiwm.access.records import ORGANIZATIONS, USERS, OrganizationRecord, UserRecord
from aiwm.infra.store.port import Index, Query, Store, Where
from aiwm.infra.store.records import Records


class Users:
    """Users of this installation, and their organizations."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.users = Records(store, USERS, UserRecord)
        self.organizations = Records(store, ORGANIZATIONS, OrganizationRecord)

    async def prepare(self) -> None:
        """Makes the indexes."""
        await self._store.ensure_index(Index(USERS, ("uniqueKey",), unique=True))
        await self._store.ensure_index(Index(USERS, ("orgId",)))
        await self._store.ensure_index(Index(ORGANIZATIONS, ("uniqueKey",), unique=True))

    async def by_username(self, username: str) -> UserRecord | None:
        """The user of that name, in any letter case."""
        found = await self.users.find(Query((Where("uniqueKey", "eq", username.lower()),), limit=1))
        return found[0] if found else None

    async def members(self, org_ids: Sequence[str]) -> dict[str, list[str]]:
        """Ids of the active users of each organization."""
        users = await self.users.find(Query((*_ACTIVE, Where("orgId", "in", tuple(org_ids)))))
        return {org_id: [user.id for user in users if user.org_id == org_id] for org_id in org_ids}

    async def existing(self, user_ids: Sequence[str]) -> list[str]:
        """Those of `user_ids` that are active users."""
        return [user.id for user in await self.users.find(Query((*_ACTIVE, Where("id", "in", tuple(user_ids)))))]

    async def everyone(self) -> list[str]:
        """Ids of all active users."""
        return [user.id for user in await self.users.find(Query(_ACTIVE))]


_ACTIVE = (Where("deletedAt", "eq", None), Where("isActive", "eq", True))
