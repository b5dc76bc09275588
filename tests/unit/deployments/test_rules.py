"""How a deployment's state follows from its replicas: one table, one story, each turn told once."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import HERE, NOW, a_replica, a_report, a_state, a_wish, later, tried

from aiwm.deployments import rules
from aiwm.deployments.records import EVENTS, DeploymentState, Usage, Wish, container_id, deployment_view
from aiwm.kit.clock import iso
from aiwm.protocol.node_channel import DeploymentStatusReport, ModelProgress
from aiwm.protocol.notifications import NotificationJob
from aiwm.protocol.states import DeploymentStatus as Status
from aiwm.protocol.states import Desired, EventSeverity
from aiwm.protocol.states import ReplicaState as State

STOPPED = {"desired": Desired.STOPPED}


@pytest.mark.parametrize(
    ("wished", "replicas", "status", "reason"),
    [
        ({}, [], Status.QUEUED, "no room"),
        ({}, [(State.PENDING, "placed")], Status.DEPLOYING, "placed"),
        ({}, [(State.PREPARING, "fetching")], Status.DEPLOYING, "fetching"),
        ({}, [(State.STARTING, None)], Status.DEPLOYING, None),
        ({}, [(State.UNHEALTHY, "no answer")], Status.DEPLOYING, "no answer"),
        ({}, [(State.LOST, "its node is offline")], Status.DEPLOYING, "its node is offline"),
        ({}, [(State.STOPPING, None)], Status.DEPLOYING, None),
        ({}, [(State.FAILED, "no such backend")], Status.FAILED, "no such backend"),
        ({}, [(State.FAILED, None)], Status.FAILED, "the engine failed"),
        ({}, [(State.FAILED, "x"), (State.STARTING, "y")], Status.DEPLOYING, "y"),
        ({}, [(State.RUNNING, None)], Status.RUNNING, None),
        ({"replicas": 3}, [(State.RUNNING, None), (State.RUNNING, None)], Status.RUNNING, "2 of 3 ready"),
        ({"replicas": 2}, [(State.RUNNING, None), (State.FAILED, "x")], Status.RUNNING, "1 of 2 ready"),
        ({}, [(State.STOPPED, None)], Status.QUEUED, "no room"),
        ({"replicas": 0}, [], Status.STOPPED, "idle"),
        (STOPPED, [], Status.STOPPED, None),
        (STOPPED, [(State.STOPPED, "its node was deleted")], Status.STOPPED, None),
        (STOPPED, [(State.FAILED, "x")], Status.STOPPED, None),
        ({"deleting": True}, [], Status.STOPPED, None),
    ],
)
def test_status_and_reason_follow_from_the_replicas(
    wished: dict[str, object], replicas: list[tuple[State, str | None]], status: Status, reason: str | None
) -> None:
    state = a_state(
        *(a_replica(f"replica-{n}", state=each, message=why) for n, (each, why) in enumerate(replicas)),
        waiting_reason="no room",
    )
    settled = rules.settled(a_state(), state, a_wish(**wished), now=NOW)
    assert (settled.status, settled.status_reason) == (status, reason)


def test_while_it_stops_a_deployment_keeps_its_status_and_says_that_it_stops() -> None:
    before = a_state(a_replica(state=State.RUNNING), status=Status.RUNNING, running_since=NOW)
    stopping = a_state(a_replica(state=State.STOPPING), status=Status.RUNNING, running_since=NOW)
    settled = rules.settled(before, stopping, a_wish(desired=Desired.STOPPED), now=NOW)
    assert (settled.status, settled.status_reason) == (Status.RUNNING, "stopping")


def turned(
    state: DeploymentState, to: State, wish: Wish, seconds: float, message: str | None = None
) -> DeploymentState:
    replica = state.replicas[0].model_copy(update={"state": to, "message": message})
    return rules.settled(state, rules.with_replica(state, replica), wish, now=later(seconds))


def placed(wish: Wish) -> DeploymentState:
    return rules.settled(a_state(), a_state(a_replica(message="fits best")), wish, now=NOW)


def test_uptime_counts_the_time_it_ran_and_no_other() -> None:
    wish = a_wish()
    state = turned(placed(wish), State.RUNNING, wish, 10)
    assert (state.running_since, state.uptime_before) == (later(10), 0.0)
    state = turned(state, State.UNHEALTHY, wish, 40)
    assert (state.running_since, state.uptime_before) == (None, 30.0)
    state = turned(state, State.RUNNING, wish, 100)
    assert (state.running_since, state.uptime_before) == (later(100), 30.0)
    view = deployment_view(wish, state, Usage(id=wish.id), base_url="http://c", now=later(105))
    assert view.uptime == 35.0
    state = turned(state, State.STOPPED, a_wish(desired=Desired.STOPPED), 110)
    view = deployment_view(wish, state, Usage(id=wish.id), base_url="http://c", now=later(999))
    assert view.uptime == 40.0


@tried
@given(
    st.lists(st.tuples(st.sampled_from([s for s in State if s is not State.FAILED]), st.integers(0, 100)), max_size=30)
)
def test_uptime_is_the_sum_of_all_running_times(course: list[tuple[State, int]]) -> None:
    wish, state, at, expected = a_wish(), placed(a_wish()), 0, 0
    for to, seconds in course:
        if state.status is Status.RUNNING:
            expected += seconds
        at += seconds
        state = turned(state, to, wish, at)
    view = deployment_view(wish, state, Usage(id=wish.id), base_url="http://c", now=later(at))
    assert view.uptime == expected


def test_the_generation_is_observed_only_once_the_wish_is_fulfilled() -> None:
    wish = a_wish(generation=4)
    state = placed(wish)
    assert state.observed_generation == 0
    state = turned(state, State.STARTING, wish, 1)
    assert state.observed_generation == 0
    state = turned(state, State.RUNNING, wish, 2)
    assert state.observed_generation == 4
    restarted = a_wish(generation=5, revision=5)
    assert turned(state, State.STOPPING, restarted, 3).observed_generation == 4
    stopped = a_wish(generation=6, desired=Desired.STOPPED)
    assert turned(state, State.STOPPING, stopped, 4).observed_generation == 4
    assert turned(state, State.STOPPED, stopped, 5).observed_generation == 6


def test_a_failure_is_observed_too() -> None:
    wish = a_wish(generation=2)
    assert turned(placed(wish), State.FAILED, wish, 1, "no such backend").observed_generation == 2


def names(state: DeploymentState) -> list[str]:
    return [event.event for event in state.events]


def told(state: DeploymentState) -> list[object]:
    facts = [fact.data["data"] for fact in state.outbox if fact.queue is not None]
    return [fact["name"] for fact in facts if isinstance(fact, dict)]


def test_the_story_from_placement_to_running_to_stopped() -> None:
    wish = a_wish()
    state = placed(wish)
    for second, to in enumerate((State.PREPARING, State.STARTING, State.RUNNING), start=1):
        state = turned(state, to, wish, second)
    stop = a_wish(desired=Desired.STOPPED)
    state = turned(turned(state, State.STOPPING, stop, 5), State.STOPPED, stop, 6)
    assert names(state) == [
        "replica.placed",
        "model.deployment.started",
        "replica.preparing",
        "replica.starting",
        "replica.running",
        "model.deployment.running",
        "replica.stopping",
        "replica.stopped",
        "model.deployment.stopped",
    ]
    assert told(state) == [
        "model.deployment.started",
        "model.deployment.progress",
        "model.deployment.progress",
        "model.deployment.running",
        "model.deployment.stopped",
    ]


def test_the_same_news_twice_changes_nothing_and_tells_nothing() -> None:
    wish = a_wish()
    state = turned(placed(wish), State.RUNNING, wish, 1)
    assert turned(state, State.RUNNING, wish, 2) is state
    assert rules.settled(state, state, wish, now=later(9)) is state


def test_a_failure_is_told_as_an_error_with_its_reason() -> None:
    wish = a_wish()
    state = turned(placed(wish), State.FAILED, wish, 1, "no such backend")
    assert [(event.event, event.message, event.severity) for event in state.events[-2:]] == [
        ("replica.failed", "replica replica-1 is failed: no such backend", EventSeverity.ERROR),
        ("model.deployment.failed", "failed: no such backend", EventSeverity.ERROR),
    ]
    notified = state.outbox[-1].data["data"]
    assert isinstance(notified, dict)
    assert notified["data"] == {
        "deploymentId": "deploy-1",
        "modelName": "digits",
        "status": "failed",
        "error": "no such backend",
    }


def test_a_notification_is_the_source_s_own_shape() -> None:
    wish = a_wish(correlation_id="the-one", updated_by="user-2")
    state = placed(wish)
    (fact,) = [each for each in state.outbox if each.queue is not None]
    assert (fact.queue, fact.name) == ("noti", "service.event")
    assert fact.data == {
        "event": "service.event",
        "data": {
            "name": "model.deployment.started",
            "data": {"deploymentId": "deploy-1", "modelName": "digits", "status": "deploying"},
            "metadata": {"correlationId": "the-one", "orgId": "org-here", "timestamp": iso(NOW)},
            "recipients": {"userIds": ["user-1", "user-2"]},
        },
    }


def test_why_it_waits_is_logged_once_for_each_reason_and_told_to_nobody() -> None:
    wish = a_wish()
    state = rules.settled(a_state(), a_state(waiting_reason="no node"), wish, now=NOW)
    same = rules.settled(state, state.model_copy(update={"waiting_reason": "no node"}), wish, now=later(1))
    assert same is state
    other = rules.settled(state, state.model_copy(update={"waiting_reason": "no GPU"}), wish, now=later(2))
    assert [event.message for event in other.events] == ["no node", "no GPU"]
    assert told(other) == []


def test_a_restart_of_the_engine_is_told_with_its_number() -> None:
    wish = a_wish()
    state = turned(placed(wish), State.RUNNING, wish, 1)
    again = state.replicas[0].model_copy(update={"restarts": 2, "message": "killed by signal 9"})
    state = rules.settled(state, rules.with_replica(state, again), wish, now=later(2))
    assert state.events[-1].event == "replica.restarted"
    assert state.events[-1].message == "the engine was started again (2 times): killed by signal 9"


@tried
@given(st.lists(st.sampled_from(list(State)), max_size=120))
def test_facts_have_ids_of_their_own_in_order_and_fifty_events_are_embedded(course: list[State]) -> None:
    wish, state = a_wish(), placed(a_wish())
    statuses = [state.status]
    for second, to in enumerate(course):
        state = turned(state, to, wish, second)
        statuses.append(state.status)
    assert [fact.id for fact in state.outbox] == [
        f"deploy-1.{number:08d}" for number in range(1, len(state.outbox) + 1)
    ]
    assert state.facts_told == len(state.outbox)
    lines = [fact.data for fact in state.outbox if fact.collection == EVENTS]
    assert len(state.events) == min(len(lines), 50)
    assert [event.to_wire() for event in state.events] == [
        {name: value for name, value in line.items() if name != "deploymentId"} for line in lines[-50:]
    ]
    turns = sum(one is not other for one, other in pairwise([Status.QUEUED, *statuses]))
    own = {
        "model.deployment.started",
        "model.deployment.running",
        "model.deployment.stopped",
        "model.deployment.failed",
    }
    own.add("model.deployment.waiting")
    assert sum(line["event"] in own for line in lines) == turns


def test_a_long_story_embeds_its_last_fifty_events_and_records_all() -> None:
    wish, state = a_wish(), placed(a_wish())
    for second in range(60):
        state = turned(state, State.RUNNING if second % 2 else State.UNHEALTHY, wish, second)
    lines = [fact.data for fact in state.outbox if fact.collection == EVENTS]
    assert (len(state.events), len(lines) > 100) == (50, True)
    assert state.events[-1].event == lines[-1]["event"] == "model.deployment.running"


def test_the_same_change_gives_the_same_facts() -> None:
    """A write that is tried again after a lost race tells what the first try would have told, under the same ids."""
    wish = a_wish()
    assert placed(wish).outbox == placed(wish).outbox


def test_a_report_of_an_older_generation_changes_nothing() -> None:
    replica = a_replica(generation=3, state=State.STARTING)
    assert rules.absorbed(replica, a_report(generation=2)) is replica


@pytest.mark.parametrize("ended", [State.STOPPED, State.FAILED])
def test_a_replica_that_has_ended_is_not_brought_back_by_a_late_report(ended: State) -> None:
    replica = a_replica(state=ended)
    assert rules.absorbed(replica, a_report()) is replica


def test_a_replica_that_is_being_stopped_is_not_running_again_by_a_late_report() -> None:
    replica = a_replica(state=State.STOPPING)
    assert rules.absorbed(replica, a_report()) is replica
    assert rules.absorbed(replica, a_report(state=State.STOPPED)).state is State.STOPPED
    assert rules.absorbed(replica, a_report(state=State.FAILED)).state is State.STOPPED


def test_what_a_report_leaves_out_stays_as_known_but_a_message_is_of_now() -> None:
    replica = a_replica(state=State.STARTING, container_port=8000, message="loading", health="starting")
    after = rules.absorbed(replica, a_report())
    assert (after.state, after.container_port, after.health, after.message) == (State.RUNNING, 8000, "starting", None)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status.QUEUED, State.PENDING),
        (Status.DEPLOYING, State.STARTING),
        (Status.RUNNING, State.RUNNING),
        (Status.STOPPED, State.STOPPED),
        (Status.FAILED, State.FAILED),
    ],
)
def test_a_bare_status_of_the_source_stands_for_a_replica_state(status: Status, state: State) -> None:
    replica = a_replica(generation=2, restarts=1, gpu_device_ids=["0"])
    report = rules.as_replica_report(DeploymentStatusReport(deployment_id="deploy-1", status=status), replica)
    assert (report.state, report.generation, report.restarts, report.gpu_device_ids) == (state, 2, 1, ["0"])


def test_a_download_is_told_in_mebibytes() -> None:
    assert rules.fetched(ModelProgress(model_id="m", bytes_done=3 * 2**20)) == "fetching the model: 3 MiB"
    of = ModelProgress(model_id="m", bytes_done=3 * 2**20, bytes_total=9 * 2**20)
    assert rules.fetched(of) == "fetching the model: 3 MiB of 9"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits", "aiwm-digits-1234567890"),
        ("a b/é", "aiwm-a-b---1234567890"),
        ("x" * 99, f"aiwm-{'x' * 40}-1234567890"),
    ],
)
def test_a_container_is_named_after_deployment_and_replica(name: str, expected: str) -> None:
    assert container_id(name, "replica-1234567890") == expected


def alarms(before: DeploymentState, after: DeploymentState) -> list[dict[str, object]]:
    known = {fact.id for fact in before.outbox}
    told = [fact for fact in after.outbox if fact.id not in known and fact.name == "service.alert"]
    return [NotificationJob.model_validate(fact.data).to_wire()["data"] for fact in told]  # type: ignore[misc]


def crashed(
    state: DeploymentState, restarts: int, to: State = State.STARTING, *, generation: int = 1
) -> DeploymentState:
    report = a_report(state=to, restarts=restarts, message="CUDA is missing", generation=generation)
    after = rules.with_replica(state, rules.absorbed(state.replicas[0], report))
    return rules.settled(state, after, a_wish(), now=NOW)


def test_a_replica_that_crashes_for_the_third_time_is_told_once() -> None:
    state, heard = a_state(a_replica(state=State.RUNNING)), []
    for restarts in range(1, 8):
        after = crashed(state, restarts)
        heard.append([alarm["name"] for alarm in alarms(state, after)])
        state = after
    assert heard == [[], [], ["deployment.crashloop"], [], [], [], []]
    (alarm,) = alarms(a_state(), state)
    assert alarm["severity"] == "high"
    assert alarm["recipients"] == {"userIds": ["user-1"], "orgIds": [HERE]}
    assert alarm["title"] == "digits keeps crashing"
    assert state.replicas[0].crashloop_told == 1


@pytest.mark.parametrize(("restarts", "told"), [(0, []), (1, ["digits was given up"])])
def test_one_that_is_given_up_is_told_if_it_had_crashed_before(restarts: int, told: list[str]) -> None:
    state = a_state(a_replica(state=State.STARTING, restarts=restarts))
    after = crashed(state, restarts, State.FAILED)
    assert [alarm["title"] for alarm in alarms(state, after)] == told


def test_another_generation_of_a_replica_is_told_of_anew() -> None:
    state = a_state(a_replica(state=State.RUNNING, restarts=3, generation=2, crashloop_told=1))
    assert len(alarms(state, crashed(state, 4, generation=2))) == 1


def test_several_crashing_replicas_are_each_told_and_each_remembered() -> None:
    state = a_state(a_replica("replica-1"), a_replica("replica-2"))
    after = state
    for replica in state.replicas:
        report = a_report(replica.replica_id, State.STARTING, restarts=3)
        after = rules.with_replica(after, rules.absorbed(replica, report))
    after = rules.settled(state, after, a_wish(), now=NOW)
    assert len(alarms(state, after)) == 2
    assert [each.crashloop_told for each in after.replicas] == [1, 1]
