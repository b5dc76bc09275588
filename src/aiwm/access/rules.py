"""Who may give whom which role, and which users keep an installation in somebody's hands: pure."""

from collections.abc import Sequence

from aiwm.access.principal import UNIVERSE_ROLES, Principal
from aiwm.access.records import UserRecord
from aiwm.protocol.errors import Conflict, Denied, FieldError, Invalid
from aiwm.protocol.states import Role


def check_roles(roles: Sequence[Role], org_id: str | None) -> None:
    """Raises `Invalid` for roles of both reaches at once, and for an organization's roles without one."""
    universe = [role for role in roles if role in UNIVERSE_ROLES]
    if universe and len(universe) < len(roles):
        raise _roles_invalid("are all universe.* or all organization.*", "ROLES_MIXED")
    if not universe and org_id is None:
        raise _roles_invalid("of an organization need one: name orgId", "ORGANIZATION_MISSING")


def check_grants(who: Principal, roles: Sequence[Role]) -> None:
    """Raises `Denied` when `who`, who may write users, may not give `roles`."""
    beyond = sorted(role.value for role in roles if role in UNIVERSE_ROLES)
    if beyond and Role.UNIVERSE_OWNER not in who.roles:
        raise Denied(f"cannot give the role {beyond[0]}: only universe.owner may", code="ROLE_NOT_GRANTABLE")


def check_manages(who: Principal, user: UserRecord) -> None:
    """Raises `Denied` when `who`, who may write users and sees `user`, may not change it: it reaches further."""
    if Role.UNIVERSE_OWNER not in who.roles and not UNIVERSE_ROLES.isdisjoint(user.roles):
        raise Denied(f"cannot change {user.username}: it has universe roles, and only universe.owner may")


def keeps_installation(user: UserRecord) -> bool:
    """Whether everything can be done by this user."""
    return user.is_active and user.deleted_at is None and Role.UNIVERSE_OWNER in user.roles


def last_owner(user: UserRecord) -> Conflict:
    """The refusal to lose the last user who can do everything."""
    return Conflict(
        f"cannot do this to {user.username}: it is the last active universe.owner; make another one first",
        code="LAST_OWNER",
    )


def _roles_invalid(message: str, code: str) -> Invalid:
    return Invalid(
        f"cannot accept the roles: roles {message}",
        code=code,
        fields=[FieldError(field="roles", message=message, code=code)],
    )
