"""Whether an open connection may stay, and as whom."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from aiwm.access.principal import Principal
from aiwm.access.records import UserRecord
from aiwm.access.watch import Seat, Standing, judge
from aiwm.protocol.errors import Unauthenticated
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import PrincipalKind, Role

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANN = UserRecord(
    id="user-1",
    owner=Owner(org_id="org-1"),
    created_at=NOW,
    updated_at=NOW,
    username="ann",
    password_hash="",
    org_id="org-1",
    roles=[Role.ORGANIZATION_EDITOR],
)
WHO = Principal(PrincipalKind.USER, "user-1", "ann", "org-1", frozenset(ANN.roles), credential="session-1")
SEAT = Seat(WHO, NOW + timedelta(hours=1))
STANDING = Standing({"user-1": ANN}, {"session-1"})


def _code(seat: Seat, standing: Standing) -> str:
    with pytest.raises(Unauthenticated) as refused:
        judge(seat, standing, now=NOW)
    return refused.value.code


def test_nothing_changed_leaves_the_seat_as_it_is() -> None:
    assert judge(SEAT, STANDING, now=NOW) is SEAT
    for_ever = replace(SEAT, expires_at=None)
    assert judge(for_ever, STANDING, now=NOW) is for_ever


@pytest.mark.parametrize(
    ("seat", "standing", "code"),
    [
        (replace(SEAT, expires_at=NOW), STANDING, "TOKEN_EXPIRED"),
        (SEAT, replace(STANDING, users={}), "TOKEN_INVALID"),
        (SEAT, replace(STANDING, users={"user-1": ANN.model_copy(update={"is_active": False})}), "TOKEN_INVALID"),
        (SEAT, replace(STANDING, users={"user-1": ANN.model_copy(update={"deleted_at": NOW})}), "TOKEN_INVALID"),
        (SEAT, replace(STANDING, credentials=frozenset({"session-2"})), "TOKEN_INVALID"),
    ],
)
def test_what_is_gone_ends_the_connection_with_its_code(seat: Seat, standing: Standing, code: str) -> None:
    assert _code(seat, standing) == code


def test_other_roles_and_another_organization_are_the_principal_s_from_now_on() -> None:
    moved = ANN.model_copy(update={"org_id": "org-2", "roles": [Role.ORGANIZATION_VIEWER]})
    judged = judge(SEAT, Standing({"user-1": moved}, {"session-1"}), now=NOW).principal
    assert (judged.org_id, judged.roles) == ("org-2", frozenset({Role.ORGANIZATION_VIEWER}))
    assert (judged.id, judged.credential) == (WHO.id, WHO.credential)
