"""The role table, and what follows from it for one caller: may it, what does it see, whose is what it makes.

Pure: a permission that no role has is denied, and so is one that nobody has heard of.
"""

from aiwm.access.principal import Principal
from aiwm.protocol.errors import Denied
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import Role

_VIEW = frozenset({"nodes.read", "models.read", "deployments.read", "inference.use", "notifications.read"})
_EDIT = _VIEW | {"nodes.write", "models.write", "deployments.write"}

PERMISSIONS: dict[Role, frozenset[str]] = {
    Role.UNIVERSE_OWNER: _EDIT | {"metrics.read", "notifications.send"},
    Role.UNIVERSE_EDITOR: _EDIT | {"metrics.read"},
    Role.UNIVERSE_VIEWER: _VIEW | {"metrics.read"},
    Role.ORGANIZATION_OWNER: _EDIT,
    Role.ORGANIZATION_EDITOR: _EDIT,
    Role.ORGANIZATION_VIEWER: _VIEW,
}


def may(principal: Principal, permission: str) -> bool:
    """Whether one of its roles has `permission`."""
    return any(permission in PERMISSIONS[role] for role in principal.roles)


def visible(principal: Principal, org_id: str | None) -> bool:
    """Whether it may see what belongs to `org_id` (None: shared with all)."""
    return principal.is_universe or org_id is None or org_id == principal.org_id


def check_changes(principal: Principal, org_id: str | None) -> None:
    """Raises `Denied` for what the caller may see but not change: shared things are the universe's."""
    if not principal.is_universe and (org_id is None or org_id != principal.org_id):
        raise Denied("cannot change this: it is shared with all organizations, and only universe roles may")


def owner_for(principal: Principal) -> Owner:
    """Whose a thing is that this caller creates."""
    return Owner(org_id=principal.org_id, user_id=principal.id)
