"""Topics: what a user may listen to live, by looking at whose thing it is. This noun knows no other's records."""

from aiwm.access import policy
from aiwm.access.principal import Principal
from aiwm.infra.store.port import Store
from aiwm.protocol.errors import Denied, Invalid, NotFound, TooMany

MAX_TOPICS = 100
_KINDS = {"deployment": ("deployments", "deployments.read", False), "node": ("nodes", "nodes.read", True)}


class Topics:
    """Checks against the owner in the stored record; `deployment:{id}` and `node:{id}`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def check(self, who: Principal, topic: str, *, joined: int) -> None:
        """Returns when `who` may listen to `topic`, having `joined` others already.

        Raises `Invalid` (`TOPIC_UNKNOWN`), `NotFound`, `Denied` or `TooMany`.
        """
        kind, _, record_id = topic.partition(":")
        if kind not in _KINDS or not record_id:
            known = " or ".join(f"{each}:<id>" for each in _KINDS)
            raise Invalid(f"cannot subscribe to {topic}: a topic is {known}", code="TOPIC_UNKNOWN")
        if joined >= MAX_TOPICS:
            raise TooMany(f"cannot subscribe to {topic}: a connection has {MAX_TOPICS} topics at most")
        collection, permission, shareable = _KINDS[kind]
        record = await self._store.get(collection, record_id)
        if record is None or record.get("deletedAt") is not None or not _visible(who, record, shareable):
            raise NotFound(f"cannot subscribe to {topic}: there is no such {kind}")
        if not policy.may(who, permission):
            raise Denied(f"cannot subscribe to {topic}: none of your roles has the permission {permission}")


def _visible(who: Principal, record: dict[str, object], shareable: bool) -> bool:
    owner = record.get("owner")
    org_id = owner.get("orgId") if isinstance(owner, dict) else None
    return policy.visible(who, org_id if isinstance(org_id, str) else None, shareable=shareable)
