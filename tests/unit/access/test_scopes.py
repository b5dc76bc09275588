"""What an API key's scopes allow."""

from datetime import UTC, datetime, timedelta

import pytest

from aiwm.access import policy, scopes
from aiwm.access.principal import Principal
from aiwm.access.records import ApiKeyRecord
from aiwm.access.rules_keys import lifetime, revoked, sees
from aiwm.protocol.errors import Denied
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import PrincipalKind, Role

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _who(*names: str, role: Role = Role.ORGANIZATION_EDITOR, user_id: str = "user-1") -> Principal:
    return Principal(PrincipalKind.USER, user_id, "ann", "org-1", frozenset({role}), frozenset(names), "key-1")


@pytest.mark.parametrize(
    ("names", "infers", "writes"),
    [(["inference"], True, False), (["model:digits"], True, False), (["manage"], True, True), ([], False, False)],
)
def test_what_each_scope_reaches(names: list[str], infers: bool, writes: bool) -> None:
    who = _who(*names)
    assert policy.may(who, "inference.use") is infers
    for permission in ("models.write", "nodes.read", "notifications.read", "api-keys.write"):
        assert policy.may(who, permission) is writes


def test_a_scope_never_exceeds_the_roles() -> None:
    who = _who("manage", role=Role.ORGANIZATION_VIEWER)
    assert not policy.may(who, "models.write")
    with pytest.raises(Denied):
        policy.acting(who, "models.write")


@pytest.mark.parametrize(
    ("names", "own", "other", "foreign"),
    [
        (["model:digits"], True, False, False),
        (["model:org-2/digits"], False, False, True),
        (["inference"], True, True, True),
        (["manage", "model:digits"], True, True, True),
    ],
)
def test_a_model_scope_is_one_deployment_of_one_organization(
    names: list[str], own: bool, other: bool, foreign: bool
) -> None:
    who = _who(*names)
    assert scopes.allow_deployment(who, "org-1", "digits") is own
    assert scopes.allow_deployment(who, "org-1", "letters") is other
    assert scopes.allow_deployment(who, "org-2", "digits") is foreign


def test_a_narrow_key_is_refused_where_every_signed_in_user_may_go() -> None:
    scopes.check_whole(_who("manage"))
    with pytest.raises(Denied):
        scopes.check_whole(_who("inference"))


def test_a_key_made_with_a_key_does_not_outlive_it() -> None:
    assert lifetime(None, None, NOW) is None
    assert lifetime(60, None, NOW) == NOW + timedelta(seconds=60)
    assert lifetime(None, NOW + timedelta(seconds=5), NOW) == NOW + timedelta(seconds=5)
    assert lifetime(60, NOW + timedelta(seconds=5), NOW) == NOW + timedelta(seconds=5)


def test_keys_are_seen_by_their_user_and_by_owners_in_reach() -> None:
    record = ApiKeyRecord(
        id="key-9",
        owner=Owner(org_id="org-1", user_id="user-9"),
        created_at=NOW,
        updated_at=NOW,
        name="k",
        digest="d",
        hint="h",
        scopes=["manage"],
    )
    assert sees(_who(role=Role.ORGANIZATION_VIEWER, user_id="user-9"), record)
    assert not sees(_who(role=Role.ORGANIZATION_EDITOR), record)
    assert not sees(_who(role=Role.UNIVERSE_EDITOR), record)
    assert sees(_who(role=Role.ORGANIZATION_OWNER), record)
    assert sees(_who(role=Role.UNIVERSE_OWNER), record)
    elsewhere = record.model_copy(update={"owner": Owner(org_id="org-2", user_id="user-9")})
    assert not sees(_who(role=Role.ORGANIZATION_OWNER), elsewhere)
    ended = revoked(record, by="user-9", at=NOW)
    assert (ended.deleted_at, ended.unique_key, ended.resource_version) == (NOW, None, 2)
    assert revoked(ended, by="x", at=NOW) is ended
