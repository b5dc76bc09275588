"""Who is connected: one session a node, the newest; and what each said it runs."""

from tests.unit.deployments.builders import a_report

from aiwm.nodes.presence import Presence, Session
from aiwm.protocol.states import ReplicaState


def a_session(sid: str, node_id: str = "node-1") -> Session:
    return Session(node_id, sid, epoch=int(sid))


def test_a_newer_connection_replaces_the_older_whose_end_then_means_nothing() -> None:
    presence, older, newer = Presence(), a_session("1"), a_session("2")
    assert presence.opened(older) is None
    assert presence.opened(newer) is older
    assert presence.of("node-1") is newer
    assert presence.current("1") is None
    assert presence.current("2") is newer
    assert presence.closed("1") is None
    assert presence.of("node-1") is newer
    assert presence.closed("2") is newer
    assert presence.of("node-1") is None
    assert list(presence) == []


def test_the_end_of_an_unknown_connection_means_nothing() -> None:
    assert Presence().closed("9") is None


def test_nodes_do_not_disturb_each_other() -> None:
    presence = Presence()
    one, two = a_session("1", "node-1"), a_session("2", "node-2")
    presence.opened(one)
    assert presence.opened(two) is None
    assert list(presence) == [one, two]


def test_sessions_may_come_and_go_while_they_are_looked_through() -> None:
    presence = Presence()
    for number in range(3):
        presence.opened(a_session(str(number), f"node-{number}"))
    for session in presence:
        presence.closed(session.sid)
    assert list(presence) == []


def test_until_it_has_registered_a_session_says_nothing_of_its_inventory() -> None:
    session = a_session("1")
    assert not session.registered
    session.took([])
    assert session.registered


def test_a_full_inventory_replaces_the_one_before() -> None:
    session = a_session("1")
    session.took([a_report("replica-1"), a_report("replica-2")])
    session.took([a_report("replica-2")])
    assert list(session.inventory) == ["replica-2"]


def test_a_stopped_replica_leaves_the_inventory_and_a_failed_one_stays_for_its_logs() -> None:
    session = a_session("1")
    session.heard(a_report("replica-1"))
    session.heard(a_report("replica-2"))
    session.heard(a_report("replica-1", ReplicaState.STOPPED))
    session.heard(a_report("replica-2", ReplicaState.FAILED))
    session.heard(a_report("replica-3", ReplicaState.STOPPED))
    assert {name: report.state for name, report in session.inventory.items()} == {"replica-2": ReplicaState.FAILED}
    session.forgot("replica-2")
    session.forgot("replica-2")
    assert session.inventory == {}
