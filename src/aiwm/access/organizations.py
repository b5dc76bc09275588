"""Organizations as records: the tenants that everything else belongs to."""

from collections.abc import Sequence

from aiwm.access import policy
from aiwm.access.principal import Principal
from aiwm.access.records import ORGANIZATIONS, USERS, OrganizationRecord, organization_view
from aiwm.infra.store.port import Query, Store, Where
from aiwm.infra.store.records import Records, changed_by_user, new_base, soft_deleted
from aiwm.kit.clock import Clock
from aiwm.protocol.errors import Conflict, NotFound
from aiwm.protocol.resources.access import Organization, OrganizationCreate
from aiwm.protocol.resources.base import Owner


class Organizations:
    """`holding` names the collections whose records belong to organizations; users always do."""

    def __init__(self, store: Store, clock: Clock, holding: Sequence[str]) -> None:
        self._store, self._clock, self._holding = store, clock, (USERS, *holding)
        self._organizations = Records(store, ORGANIZATIONS, OrganizationRecord)

    async def seen_by(self, who: Principal, org_id: str) -> OrganizationRecord:
        """The record; `NotFound` (`ORGANIZATION_NOT_FOUND`) also when it is not the caller's to see."""
        found = await self._organizations.get(org_id)
        if found is None or found.deleted_at is not None or not policy.visible(who, found.owner.org_id):
            raise NotFound(
                f"cannot find organization {org_id}: there is none of that id", code="ORGANIZATION_NOT_FOUND"
            )
        return found

    async def is_seen_by(self, who: Principal, org_id: str) -> bool:
        """Whether it is there and the caller's to see."""
        try:
            await self.seen_by(who, org_id)
        except NotFound:
            return False
        return True

    async def page(self, query: Query) -> tuple[Sequence[Organization], int]:
        """A page of organizations and how many there are in all."""
        found = await self._organizations.find(query)
        return [organization_view(each) for each in found], await self._organizations.count(query.where)

    async def create(self, who: Principal, params: OrganizationCreate) -> Organization:
        """A new organization, which owns itself; `Conflict` NAME_TAKEN."""
        base = new_base("org", owner=Owner(user_id=who.id), by=who.id, at=self._clock.now())
        base["owner"] = Owner(org_id=str(base["id"]), user_id=who.id)
        record = OrganizationRecord.model_validate({**base, **dict(params), "unique_key": params.name.lower()})
        try:
            return organization_view(await self._organizations.insert(record))
        except Conflict as taken:
            raise _name_taken(params.name) from taken

    async def change(self, who: Principal, record: OrganizationRecord, changes: dict[str, object]) -> Organization:
        """Applies what the caller set; `Stale` when somebody else came first, `Conflict` NAME_TAKEN."""
        changed = changed_by_user(record, changes, by=who.id, at=self._clock.now())
        changed = changed.model_copy(update={"unique_key": changed.name.lower()})
        try:
            return organization_view(await self._organizations.replace(changed))
        except Conflict as taken:
            raise _name_taken(changed.name) from taken

    async def delete(self, who: Principal, record: OrganizationRecord) -> None:
        """Deletes softly; `Conflict` ORGANIZATION_IN_USE while anything belongs to it."""
        for collection in self._holding:
            theirs = (Where("owner.orgId", "eq", record.id), Where("deletedAt", "eq", None))
            if count := await self._store.count(collection, theirs):
                raise Conflict(
                    f"cannot delete this organization: {count} of its {collection} are left; delete them first",
                    code="ORGANIZATION_IN_USE",
                )
        await self._organizations.replace(soft_deleted(record, by=who.id, at=self._clock.now()))


def _name_taken(name: str) -> Conflict:
    return Conflict(f"cannot use the name {name!r}: another organization has it", code="NAME_TAKEN")
