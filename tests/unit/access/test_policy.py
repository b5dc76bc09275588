"""The role table and the scope of each caller."""

from pathlib import Path

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


def test_a_query_of_an_organization_sees_its_own_and_of_what_can_be_shared_also_that() -> None:
    own, shared = Where("owner.orgId", "in", ("org-1",)), Where("owner.orgId", "eq", None)
    nothing = Where("owner.orgId", "in", ())
    member, lost = _who(Role.ORGANIZATION_VIEWER), _who(Role.ORGANIZATION_VIEWER, org_id=None)
    assert scope(member) == (own,)
    assert scope(member, shareable=True) == (Any((own, shared)),)
    assert scope(lost) == (nothing,)
    assert scope(lost, shareable=True) == (Any((nothing, shared)),)
    assert scope(_who(Role.UNIVERSE_VIEWER)) == scope(_who(Role.UNIVERSE_VIEWER), shareable=True) == ()


@pytest.mark.parametrize("shareable", [False, True])
def test_what_is_visible_agrees_with_the_scope(shareable: bool) -> None:
    member, lost, universe = (
        _who(Role.ORGANIZATION_OWNER),
        _who(Role.ORGANIZATION_OWNER, org_id=None),
        _who(Role.UNIVERSE_VIEWER),
    )
    for org_id, seen_by in (
        ("org-1", (True, False, True)),
        ("org-2", (False, False, True)),
        (None, (shareable, shareable, True)),
    ):
        seen = tuple(policy.visible(who, org_id, shareable=shareable) for who in (member, lost, universe))
        assert seen == seen_by


def test_shared_things_are_changed_by_universe_roles_alone() -> None:
    policy.check_changes(_who(Role.ORGANIZATION_EDITOR), "org-1")
    policy.check_changes(_who(Role.UNIVERSE_EDITOR), None)
    for org_id in (None, "org-2"):
        with pytest.raises(Denied):
            policy.check_changes(_who(Role.ORGANIZATION_EDITOR), org_id)


def test_what_a_user_makes_belongs_to_it_and_its_organization() -> None:
    owner = policy.owner_for(_who(Role.ORGANIZATION_EDITOR))
    assert (owner.org_id, owner.user_id) == ("org-1", "user-1")


def test_only_universe_roles_make_what_is_shared_and_nothing_is_shared_by_accident() -> None:
    assert policy.owner_for(_who(Role.UNIVERSE_EDITOR), shared=True).org_id is None
    assert policy.owner_for(_who(Role.UNIVERSE_EDITOR, org_id=None), shared=True).org_id is None
    for who, shared, code in (
        (_who(Role.ORGANIZATION_OWNER), True, "SHARED_DENIED"),
        (_who(Role.UNIVERSE_OWNER, org_id=None), False, "ORGANIZATION_MISSING"),
        (_who(Role.ORGANIZATION_OWNER, org_id=None), False, "ORGANIZATION_MISSING"),
    ):
        with pytest.raises(Denied) as refused:
            policy.owner_for(who, shared=shared)
        assert refused.value.code == code


def test_a_role_of_wide_reach_does_not_widen_what_a_narrow_one_may_write() -> None:
    both = _who(Role.UNIVERSE_VIEWER, Role.ORGANIZATION_OWNER)
    writing = policy.acting(both, "nodes.write")
    assert not policy.visible(writing, "org-2")
    with pytest.raises(Denied):
        policy.check_changes(writing, "org-2")
    assert policy.visible(policy.acting(both, "nodes.read"), "org-2")


def test_nobody_acts_with_a_permission_it_lacks() -> None:
    with pytest.raises(Denied):
        policy.acting(_who(Role.ORGANIZATION_VIEWER), "nodes.write")


def test_a_permission_that_no_role_has_is_unknown() -> None:
    assert policy.known("nodes.read")
    assert not policy.known("nodes.teleport")


def test_the_table_in_the_docs_is_the_one_in_force() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "access.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    head, _, *body = rows
    told = {Role(role): {row[0] for row in body if row[at] == "yes"} for at, role in enumerate(head) if at}
    assert told == policy.PERMISSIONS
