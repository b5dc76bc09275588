"""What waits for the controller stays within bounds, in order, newest first to stay."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.outbox import DOUBT_SECONDS, Letter, Outbox
from aiwm.protocol.node_channel import DeploymentLogs

AT = datetime(2026, 1, 1, tzinfo=UTC)


def letter(key: str, text: str = "", size: int = 10) -> Letter:
    logs = DeploymentLogs(deployment_id="deploy-1", replica_id="replica-1", lines=[text])
    return Letter("deployment.logs", key, logs, AT, size)


def drained(outbox: Outbox, now: float = 0.0) -> list[Letter]:
    """Everything that waits, sent."""
    sent = []
    while (each := outbox.next()) is not None:
        outbox.sent(each, now=now)
        sent.append(each)
    return sent


def test_what_waits_goes_out_in_order_and_of_a_replica_only_the_newest() -> None:
    outbox = Outbox()
    first, second, third = letter("a", "old"), letter("b"), letter("a", "new")
    for each in (first, second, third):
        outbox.put(each)
    assert drained(outbox) == [second, third]
    assert (len(outbox), outbox.size, outbox.take_dropped()) == (0, 0, 0)


def test_the_oldest_give_way_and_are_counted_once() -> None:
    outbox = Outbox(most_messages=2, most_bytes=25)
    for key in "abc":
        outbox.put(letter(key))
    assert [each.key for each in (outbox.next(),) if each] == ["b"]
    outbox.put(letter("d", size=20))
    assert (outbox.take_dropped(), outbox.take_dropped()) == (3, 0)
    assert [each.key for each in drained(outbox)] == ["d"]


def test_a_newer_one_that_came_while_the_older_was_being_sent_is_not_lost() -> None:
    outbox = Outbox()
    older, newer = letter("a", "old"), letter("a", "new")
    outbox.put(older)
    assert outbox.next() is older
    outbox.put(newer)
    outbox.sent(older, now=0)
    assert outbox.next() is newer


def test_what_went_out_right_before_the_link_broke_is_sent_again_first() -> None:
    outbox = Outbox()
    old, doubtful, waiting = letter("old"), letter("doubtful"), letter("waiting")
    outbox.put(old)
    drained(outbox, now=0)
    outbox.put(doubtful)
    drained(outbox, now=DOUBT_SECONDS)
    outbox.put(waiting)
    outbox.broke(now=DOUBT_SECONDS + 1)
    assert drained(outbox, now=DOUBT_SECONDS + 2) == [doubtful, waiting]
    outbox.broke(now=3 * DOUBT_SECONDS)
    assert outbox.next() is None


def test_what_was_told_anew_takes_the_place_of_what_is_in_doubt() -> None:
    outbox = Outbox()
    outbox.put(letter("a", "old"))
    drained(outbox)
    newer = letter("a", "new")
    outbox.put(newer)
    outbox.broke(now=1)
    assert drained(outbox) == [newer]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcdefgh"), st.integers(1, 60)),
        st.tuples(st.sampled_from(["send", "break"]), st.just(""), st.integers(0, 15)),
    )
)


@given(STEPS)
def test_whatever_happens_it_stays_within_its_bounds_and_keeps_the_newest(steps: list[tuple[str, str, int]]) -> None:
    outbox, now = Outbox(most_messages=4, most_bytes=100), 0.0
    newest: dict[str, Letter] = {}
    for step, key, number in steps:
        if step == "put":
            newest[key] = letter(key, str(len(newest)), size=number)
            outbox.put(newest[key])
        elif step == "send" and (each := outbox.next()) is not None:
            assert each is newest[each.key]
            outbox.sent(each, now=now)
        elif step == "break":
            outbox.broke(now=now)
        now += number if step != "put" else 0
        assert len(outbox) <= 4
        assert outbox.size <= 100
    waiting = drained(outbox, now=now)
    assert all(each is newest[each.key] for each in waiting)
    assert outbox.size == 0
