"""The role table and the scope of each caller."""

import pytest

from aiwm.access import policy
from aiwm.access.principal import Principal
from aiwm.access.scope import scope
from aiwm.infra.store.port import Any, Where
from aiwm.protocol.errors import Denied
from aiwm.protocol.states import PrincipalKind, Role


def _who(*roles: Role, org_id: str | None = "org-1") -> Principal:
    return Principal(PrincipalKind.USER, "user-1", "ann", org_id, frozenset(roles))


def test_every_role_is_in_the_table() -> None:
    assert set(policy.PERMISSIONS) == set(Role)


@pytest.mark.parametrize(
    ("role", "reads", "writes", "sends"),
    [
        (Role.UNIVERSE_OWNER, True, True, True),
        (Role.UNIVERSE_EDITOR, True, True, False),
        (Role.UNIVERSE_VIEWER, True, False, False),
        (Role.ORGANIZATION_OWNER, True, True, False),
        (Role.ORGANIZATION_EDITOR, True, True, False),
        (Role.ORGANIZATION_VIEWER, True, False, False),
    ],
)
def test_what_each_role_may(role: Role, reads: bool, writes: bool, sends: bool) -> None:
    who = _who(role)
    for noun in ("nodes", "models", "deployments"):
        assert policy.may(who, f"{noun}.read") is reads
        assert policy.may(who, f"{noun}.write") is writes
    assert policy.may(who, "inference.use")
    assert policy.may(who, "notifications.send") is sends


def test_nobody_may_what_is_unknown_and_who_has_no_role_may_nothing() -> None:
    assert not policy.may(_who(*Role), "nodes.teleport")
    assert not policy.may(_who(), "nodes.read")


def test_a_query_of_an_organization_sees_its_own_and_what_is_shared() -> None:
    shared = Where("owner.orgId", "eq", None)
    assert scope(_who(Role.ORGANIZATION_VIEWER)) == (Any((Where("owner.orgId", "eq", "org-1"), shared)),)
    assert scope(_who(Role.ORGANIZATION_VIEWER, org_id=None)) == (shared,)
    assert scope(_who(Role.UNIVERSE_VIEWER)) == ()


def test_what_is_visible_agrees_with_the_scope() -> None:
    member, lost, universe = (
        _who(Role.ORGANIZATION_OWNER),
        _who(Role.ORGANIZATION_OWNER, org_id=None),
        _who(Role.UNIVERSE_VIEWER),
    )
    for org_id, seen_by in (
        ("org-1", (True, False, True)),
        ("org-2", (False, False, True)),
        (None, (True, True, True)),
    ):
        assert tuple(policy.visible(who, org_id) for who in (member, lost, universe)) == seen_by


def test_shared_things_are_changed_by_universe_roles_alone() -> None:
    policy.check_changes(_who(Role.ORGANIZATION_EDITOR), "org-1")
    policy.check_changes(_who(Role.UNIVERSE_EDITOR), None)
    for org_id in (None, "org-2"):
        with pytest.raises(Denied):
            policy.check_changes(_who(Role.ORGANIZATION_EDITOR), org_id)


def test_what_a_user_makes_belongs_to_it_and_its_organization() -> None:
    owner = policy.owner_for(_who(Role.ORGANIZATION_EDITOR))
    assert (owner.org_id, owner.user_id) == ("org-1", "user-1")
