"""Who may give whom which role, and who keeps an installation in somebody's hands."""

from datetime import UTC, datetime

import pytest

from aiwm.access import rules
from aiwm.access.principal import Principal
from aiwm.access.records import UserRecord
from aiwm.protocol.errors import Denied, Invalid
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import PrincipalKind, Role

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UNIVERSE = (Role.UNIVERSE_OWNER, Role.UNIVERSE_EDITOR, Role.UNIVERSE_VIEWER)
ORGANIZATION = (Role.ORGANIZATION_OWNER, Role.ORGANIZATION_EDITOR, Role.ORGANIZATION_VIEWER)


def _who(role: Role) -> Principal:
    return Principal(PrincipalKind.USER, "user-1", "ann", "org-1", frozenset({role}))


def _user(*roles: Role, is_active: bool = True, deleted: bool = False) -> UserRecord:
    return UserRecord(
        id="user-2",
        owner=Owner(org_id="org-1"),
        created_at=NOW,
        updated_at=NOW,
        deleted_at=NOW if deleted else None,
        username="bob",
        password_hash="",
        org_id="org-1",
        roles=list(roles),
        is_active=is_active,
    )


@pytest.mark.parametrize("role", UNIVERSE)
def test_universe_roles_are_given_and_their_holders_managed_by_universe_owners_alone(role: Role) -> None:
    rules.check_grants(_who(Role.UNIVERSE_OWNER), [role])
    rules.check_manages(_who(Role.UNIVERSE_OWNER), _user(role))
    for lesser in (Role.UNIVERSE_EDITOR, Role.ORGANIZATION_OWNER):
        with pytest.raises(Denied) as refused:
            rules.check_grants(_who(lesser), [Role.ORGANIZATION_VIEWER, role])
        assert refused.value.code == "ROLE_NOT_GRANTABLE"
        with pytest.raises(Denied):
            rules.check_manages(_who(lesser), _user(role))


@pytest.mark.parametrize("role", ORGANIZATION)
def test_an_organizations_roles_are_its_owners_to_give(role: Role) -> None:
    rules.check_grants(_who(Role.ORGANIZATION_OWNER), [role])
    rules.check_manages(_who(Role.ORGANIZATION_OWNER), _user(role))


@pytest.mark.parametrize(
    ("roles", "org_id", "code"),
    [
        (UNIVERSE, None, None),
        (ORGANIZATION, "org-1", None),
        (ORGANIZATION, None, "ORGANIZATION_MISSING"),
        ((Role.UNIVERSE_VIEWER, Role.ORGANIZATION_OWNER), "org-1", "ROLES_MIXED"),
    ],
)
def test_roles_have_one_reach_and_an_organization_where_they_need_one(
    roles: tuple[Role, ...], org_id: str | None, code: str | None
) -> None:
    if code is None:
        rules.check_roles(roles, org_id)
        return
    with pytest.raises(Invalid) as refused:
        rules.check_roles(roles, org_id)
    assert refused.value.code == code
    assert [each.field for each in refused.value.fields] == ["roles"]


def test_only_an_active_universe_owner_keeps_an_installation() -> None:
    assert rules.keeps_installation(_user(Role.UNIVERSE_OWNER))
    assert not rules.keeps_installation(_user(Role.UNIVERSE_OWNER, is_active=False))
    assert not rules.keeps_installation(_user(Role.UNIVERSE_OWNER, deleted=True))
    assert not rules.keeps_installation(_user(Role.UNIVERSE_EDITOR, Role.ORGANIZATION_OWNER))
