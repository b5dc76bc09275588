"""API keys, decided: whose they are to see, how long they live, how they end. Pure."""

from datetime import datetime, timedelta

from aiwm.access.principal import Principal
from aiwm.access.records import ApiKeyRecord
from aiwm.protocol.states import Role

KEY_PREFIX = "aiwm_"


def sees(who: Principal, record: ApiKeyRecord) -> bool:
    """Whether a key is the caller's to see and revoke: its own, and an owner's all those in its reach."""
    if record.owner.user_id == who.id or Role.UNIVERSE_OWNER in who.roles:
        return True
    return Role.ORGANIZATION_OWNER in who.roles and who.org_id is not None and record.owner.org_id == who.org_id


def lifetime(seconds: int | None, parents: datetime | None, now: datetime) -> datetime | None:
    """When a new key ends: when it is asked to, and not after the key it was made with. None: when it is revoked."""
    asked = None if seconds is None else now + timedelta(seconds=seconds)
    ends = [each for each in (asked, parents) if each is not None]
    return min(ends) if ends else None


def revoked(record: ApiKeyRecord, *, by: str, at: datetime) -> ApiKeyRecord:
    """`record` as it is once it was revoked; the same one when it was before."""
    if record.deleted_at is not None:
        return record
    ended = {"deleted_at": at, "updated_at": at, "updated_by": by, "unique_key": None}
    return record.model_copy(update={**ended, "resource_version": record.resource_version + 1})
