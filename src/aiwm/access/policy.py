"""The role table, and what follows from it for one caller: may it, what does it see, whose is what it makes.

Pure: a permission that no role has is denied, and so is one that nobody has heard of. A role gives a permission and
how far it reaches together, so a caller acts through those of its roles that give what it asks for, and no others.
"""

from dataclasses import replace

from aiwm.access import scopes
from aiwm.access.principal import Principal
from aiwm.protocol.errors import Denied
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import Role

_VIEW = frozenset(
    {
        "account.password",
        "api-keys.read",
        "api-keys.write",
        "deployments.read",
        "inference.use",
        "models.read",
        "nodes.read",
        "notifications.read",
        "organizations.read",
        "users.read",
    }
)
_EDIT = _VIEW | {"deployments.write", "models.write", "nodes.write"}
_OWN = _EDIT | {"audit.read", "organizations.write", "users.write"}

PERMISSIONS: dict[Role, frozenset[str]] = {
    Role.UNIVERSE_OWNER: _OWN | {"metrics.read", "notifications.send", "organizations.create"},
    Role.UNIVERSE_EDITOR: _EDIT | {"metrics.read"},
    Role.UNIVERSE_VIEWER: _VIEW | {"metrics.read"},
    Role.ORGANIZATION_OWNER: _OWN,
    Role.ORGANIZATION_EDITOR: _EDIT,
    Role.ORGANIZATION_VIEWER: _VIEW,
}


def known(permission: str) -> bool:
    """Whether some role has it: a route that names another one opens to nobody, which is a mistake."""
    return any(permission in granted for granted in PERMISSIONS.values())


def may(principal: Principal, permission: str) -> bool:
    """Whether one of its roles has `permission`, and the scopes it came with reach there."""
    granted = any(permission in PERMISSIONS[role] for role in principal.roles)
    return granted and scopes.allow(principal.scopes, permission)


def acting(principal: Principal, permission: str) -> Principal:
    """The caller as it acts with `permission`: with the roles that have it; `Denied` when none has."""
    if not scopes.allow(principal.scopes, permission):
        raise Denied(f"cannot do this: the scopes of your API key do not reach to {permission}", code="SCOPE_MISSING")
    granting = frozenset(role for role in principal.roles if permission in PERMISSIONS[role])
    if not granting:
        raise Denied(f"cannot do this: none of your roles has the permission {permission}")
    return replace(principal, roles=granting)


def visible(principal: Principal, org_id: str | None, *, shareable: bool = False) -> bool:
    """Whether it may see what belongs to `org_id`; without an organization, `shareable` things are for all."""
    if principal.is_universe:
        return True
    return shareable if org_id is None else org_id == principal.org_id


def check_changes(principal: Principal, org_id: str | None) -> None:
    """Raises `Denied` for what the caller may see but not change: shared things are the universe's."""
    if not principal.is_universe and (org_id is None or org_id != principal.org_id):
        raise Denied("cannot change this: it is shared with all organizations, and only universe roles may")


def owner_for(principal: Principal, *, shared: bool = False) -> Owner:
    """Whose a thing is that this caller creates: its organization's, or, `shared`, everybody's.

    `Denied`: `SHARED_DENIED` for a shared thing of an organization's role, `ORGANIZATION_MISSING` for a caller that
    belongs to none.
    """
    if shared and not principal.is_universe:
        raise Denied(
            "cannot share this with all organizations: only universe roles may; leave shared out", code="SHARED_DENIED"
        )
    if not shared and principal.org_id is None:
        raise Denied(
            "cannot create this: you belong to no organization; have one assigned, or share what can be shared",
            code="ORGANIZATION_MISSING",
        )
    return Owner(org_id=None if shared else principal.org_id, user_id=principal.id)
