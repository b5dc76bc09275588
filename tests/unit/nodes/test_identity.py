"""A daemon that was started again, and a copy of it, told apart."""

import pytest
from tests.unit.deployments.builders import NOW, later

from aiwm.nodes.identity import MOST_REMEMBERED, check_instance, claimed
from aiwm.nodes.records import NodeObservation
from aiwm.protocol.errors import Unauthenticated

NEW = NodeObservation(id="node-1")


def after(*instances: str | None) -> NodeObservation:
    seen = NEW
    for number, instance in enumerate(instances):
        seen = claimed(seen, instance, at=later(number))
    return seen


def test_a_daemon_that_is_started_again_is_no_copy() -> None:
    seen = after("a", "b", "c")
    assert (seen.instance, seen.superseded, seen.cloned_at) == ("c", ["a", "b"], None)


def test_a_daemon_that_reconnects_is_itself() -> None:
    once = after("a")
    assert claimed(once, "a", at=NOW) is once
    check_instance(once, "a", connected=True)


def test_a_replaced_daemon_is_refused_while_the_newer_one_is_there() -> None:
    seen = after("a", "b")
    with pytest.raises(Unauthenticated) as refused:
        check_instance(seen, "a", connected=True)
    assert refused.value.code == "NODE_REPLACED"
    check_instance(seen, "b", connected=True)
    check_instance(seen, "c", connected=True)


def test_a_replaced_daemon_may_return_when_the_newer_one_is_gone_and_is_known_as_a_copy() -> None:
    seen = after("a", "b")
    check_instance(seen, "a", connected=False)
    back = claimed(seen, "a", at=later(9))
    assert (back.instance, back.superseded, back.cloned_at) == ("a", ["b"], later(9))


def test_a_client_that_names_no_instance_changes_nothing() -> None:
    seen = after("a", "b")
    check_instance(seen, None, connected=True)
    assert claimed(seen, None, at=NOW) is seen


def test_only_so_many_are_remembered() -> None:
    seen = after(*(str(number) for number in range(100)))
    assert len(seen.superseded) == MOST_REMEMBERED
    assert seen.superseded[-1] == "98"
