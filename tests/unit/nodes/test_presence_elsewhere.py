"""Sessions that other controllers hold, beside one's own: of two of one node the newer counts, wherever each is."""

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import a_report, tried

from aiwm.nodes.presence import Presence, Session
from aiwm.protocol.states import ReplicaState


def here(epoch: int, node_id: str = "node-1") -> Session:
    return Session(node_id, f"sid-{epoch}", epoch)


def there(epoch: int, holder: str = "other", node_id: str = "node-1") -> Session:
    return Session(node_id, "", epoch, holder=holder)


def test_a_newer_session_elsewhere_ends_the_one_here() -> None:
    presence, own, newer = Presence(), here(1), there(2)
    presence.opened(own)
    assert presence.elsewhere(newer) is own
    assert presence.of("node-1") is newer
    assert presence.current("sid-1") is None, "what the older connection still says is dropped"
    assert presence.closed("sid-1") is None, "and its end means nothing"
    assert presence.of("node-1") is newer
    assert presence.here() == []


def test_an_older_session_elsewhere_changes_nothing() -> None:
    presence, own = Presence(), here(3)
    presence.opened(own)
    for epoch in (1, 2, 3):
        assert presence.elsewhere(there(epoch)) is None
        assert presence.of("node-1") is own


def test_a_connection_here_that_is_older_than_one_elsewhere_must_end() -> None:
    presence, newer, late = Presence(), there(2), here(1)
    presence.elsewhere(newer)
    assert presence.opened(late) is late
    assert presence.of("node-1") is newer
    assert presence.closed("sid-1") is None


def test_a_newer_connection_here_ends_nothing_here_when_the_older_was_elsewhere() -> None:
    presence, newer = Presence(), here(2)
    presence.elsewhere(there(1))
    assert presence.opened(newer) is None
    assert presence.here() == [newer]
    assert presence.left("node-1", "other") is None, "what the other says of its older one means nothing"
    assert presence.of("node-1") is newer


def test_a_node_that_left_a_controller_is_gone_and_still_dialled_where_it_was() -> None:
    presence, session = Presence(), there(1)
    presence.elsewhere(session)
    presence.reached_at("node-1", "10.0.0.7")
    assert presence.left("node-1", "third") is None
    assert presence.left("node-1", "other") is session
    assert presence.of("node-1") is None
    assert presence.address("node-1") == "10.0.0.7"


def test_those_held_here_and_by_each_other_controller_are_told_apart() -> None:
    presence, own = Presence(), here(1, "node-1")
    others = [there(1, "a", "node-2"), there(1, "b", "node-3")]
    presence.opened(own)
    for session in others:
        presence.elsewhere(session)
    assert list(presence) == [own, *others]
    assert (presence.here(), presence.held_by("a"), presence.held_by("b")) == ([own], [others[0]], [others[1]])


def test_every_change_to_a_session_here_is_told_and_none_to_one_elsewhere() -> None:
    presence, told = Presence(), list[str]()
    presence.tell(told.append)
    own, other = here(1, "node-1"), there(1, node_id="node-2")
    presence.opened(own)
    own.took([a_report("replica-1")])
    own.heard(a_report("replica-1", ReplicaState.FAILED))
    own.forgot("replica-1")
    own.forgot("replica-1")
    assert told == ["node-1"] * 4
    presence.elsewhere(other)
    other.took([])
    presence.left("node-2", "other")
    assert told == ["node-1"] * 4
    presence.closed("sid-1")
    assert told == ["node-1"] * 5


@tried
@given(
    events=st.lists(
        st.tuples(st.sampled_from(["open", "close", "elsewhere", "left"]), st.integers(1, 6), st.sampled_from("ab")),
        max_size=30,
    )
)
def test_in_whatever_order_news_come_an_older_session_never_takes_a_newer_ones_place(
    events: list[tuple[str, int, str]],
) -> None:
    presence, opened = Presence(), set[int]()
    for what, epoch, holder in events:
        before = presence.of("node-1")
        if what == "open" and epoch not in opened:
            opened.add(epoch)
            presence.opened(here(epoch))
        elif what == "close":
            presence.closed(f"sid-{epoch}")
        elif what == "elsewhere" and epoch not in opened:
            presence.elsewhere(there(epoch, holder))
        elif what == "left":
            presence.left("node-1", holder)
        after = presence.of("node-1")
        if before is not None and after is not None:
            assert after.epoch >= before.epoch
        assert presence.here() == ([after] if after is not None and after.holder is None else [])
