"""The planner: level-triggered, careful with silence, never two replicas on one device."""

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import (
    HERE,
    NOW,
    READY_MODEL,
    Ids,
    a_fleet,
    a_node,
    a_replica,
    a_report,
    a_state,
    a_wish,
    overfull,
    some_nodes,
    some_replicas,
    some_wish,
    tried,
)

from aiwm.deployments import rules
from aiwm.deployments.placement import NodeFacts
from aiwm.deployments.planner import Command, Deploy, ModelFacts, Stop, plan, strays, wanted
from aiwm.deployments.records import DeploymentState, Replica, Wish
from aiwm.protocol.states import DeploymentStatus, Desired, HardwareProfile, ReplicaState

Situation = tuple[Wish, DeploymentState, list[NodeFacts]]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    replicas = draw(some_replicas())
    return draw(some_wish()), a_state(*replicas), draw(some_nodes(replicas))


def planned(situation: Situation, model: ModelFacts = READY_MODEL) -> tuple[DeploymentState, list[Command]]:
    wish, state, nodes = situation
    return plan(wish, state, model, a_fleet(*nodes, states=[state]), Ids())


@tried
@given(situation=situations())
def test_planning_again_from_the_result_changes_nothing(situation: Situation) -> None:
    wish, _, nodes = situation
    after, commands = planned(situation)
    again, repeated = planned((wish, after, nodes))
    assert again == after
    assert repeated == commands
    now = rules.settled(situation[1], after, wish, now=NOW)
    assert rules.settled(now, planned((wish, now, nodes))[0], wish, now=NOW) is now


@tried
@given(situation=situations())
def test_a_silent_node_gets_no_command_and_loses_nothing(situation: Situation) -> None:
    _, state, nodes = situation
    silent = {node.node_id for node in nodes if node.inventory is None}
    after, commands = planned(situation)
    assert not [
        each for each in commands if (each.replica.node_id if isinstance(each, Deploy) else each.node_id) in silent
    ]
    known = {each.replica_id: each for each in after.replicas}
    forced = situation[0].stop_force
    for replica in state.replicas:
        if replica.active and replica.node_id in silent and not forced:
            assert known[replica.replica_id].active


@tried
@given(situation=situations())
def test_what_should_run_is_never_stopped_by_silence(situation: Situation) -> None:
    """The same situation with every node silent: no command at all, and nothing is on its way out but by wish."""
    wish, state, nodes = situation
    quiet = [a_node(node.node_id, gpus=len(node.gpus), runs=None) for node in nodes]
    after, commands = planned((wish, state, quiet))
    assert commands == []
    here = {node.node_id for node in nodes}
    keepable = [
        each
        for each in state.replicas
        if each.active
        and each.node_id in here
        and each.revision == wish.revision
        and each.state is not ReplicaState.STOPPING
    ]
    left = [each for each in after.replicas if each.active and each.state is not ReplicaState.STOPPING]
    assert len(left) == min(len(keepable), wanted(wish))


@tried
@given(situation=situations())
def test_only_what_is_wanted_nowhere_is_stopped(situation: Situation) -> None:
    wish, _, nodes = situation
    after, commands = planned(situation)
    stops = {each.replica_id for each in commands if isinstance(each, Stop)}
    deploys = {each.replica.replica_id for each in commands if isinstance(each, Deploy)}
    going = [each for each in after.replicas if each.active and each.state is not ReplicaState.STOPPING]
    assert not stops & {each.replica_id for each in going if _runs_on(nodes, each)}
    assert deploys <= {each.replica_id for each in going}
    assert len(going) <= wanted(wish)
    assert {each.revision for each in going} <= {wish.revision}


def _runs_on(nodes: list[NodeFacts], replica: Replica) -> bool:
    return any(node.node_id == replica.node_id and replica.replica_id in (node.inventory or {}) for node in nodes)


@tried
@given(situations=st.lists(situations(), min_size=1, max_size=4))
def test_no_more_of_a_device_is_given_away_than_there_is(situations: list[Situation]) -> None:
    fleet = a_fleet(*situations[0][2])
    for number, (wish, _, _) in enumerate(situations):
        own = wish.model_copy(update={"id": f"deploy-{number}"})
        plan(own, a_state(id=own.id), READY_MODEL, fleet, Ids(f"replica-{number}"))
        assert not overfull(fleet)


@tried
@given(situation=situations())
def test_new_replicas_go_only_where_they_may(situation: Situation) -> None:
    _, state, nodes = situation
    after, _ = planned(situation)
    known = {each.replica_id for each in state.replicas}
    by_id = {node.node_id: node for node in nodes}
    for replica in after.replicas:
        if replica.replica_id not in known:
            node = by_id[replica.node_id]
            assert node.reachable
            assert node.worker
            assert node.schedulable
            assert node.org_id in (None, HERE)


@tried
@given(situation=situations())
def test_a_model_that_cannot_be_deployed_starts_nothing_and_stops_nothing(situation: Situation) -> None:
    wish, state, _ = situation
    after, _ = planned(situation, ModelFacts("digits", "its model is not ready: pending"))
    assert {each.replica_id for each in after.replicas} <= {each.replica_id for each in state.replicas}
    unplaced = wanted(wish) and not after.replicas
    assert not unplaced or after.waiting_reason == "its model is not ready: pending"


def test_a_replica_that_its_node_reports_is_left_alone() -> None:
    replica = a_replica(state=ReplicaState.RUNNING)
    after, commands = planned((a_wish(), a_state(replica), [a_node(runs=[a_report()])]))
    assert (after.replicas, commands) == ([replica], [])


def test_a_replica_that_its_node_no_longer_runs_is_deployed_there_again() -> None:
    replica = a_replica(state=ReplicaState.RUNNING, health="healthy")
    after, commands = planned((a_wish(), a_state(replica), [a_node()]))
    assert after.replicas[0].state is ReplicaState.PENDING
    assert after.replicas[0].message == "its node no longer runs it"
    assert after.replicas[0].health is None
    assert commands == [Deploy(after.replicas[0])]


def test_a_replica_of_a_node_that_is_away_is_lost_and_not_replaced() -> None:
    replica = a_replica(state=ReplicaState.RUNNING)
    after, commands = planned((a_wish(), a_state(replica), [a_node(runs=None), a_node("node-2")]))
    assert [each.state for each in after.replicas] == [ReplicaState.LOST]
    assert after.replicas[0].message == "its node name of node-1 is offline"
    assert commands == []


def test_until_a_node_is_known_to_be_offline_its_replicas_are_what_they_were() -> None:
    """A controller that has just started has heard of no node yet; users are told of no loss and no return."""
    state = a_state(a_replica(state=ReplicaState.RUNNING))
    assert planned((a_wish(), state, [a_node(runs=None, offline=False)])) == (state, [])


def test_a_replica_of_a_deleted_node_is_replaced_elsewhere() -> None:
    state = a_state(a_replica(state=ReplicaState.RUNNING, gpu_device_ids=["0"]))
    after, commands = planned((a_wish(), state, [a_node("node-2")]))
    assert [(each.node_id, each.state) for each in after.replicas] == [("node-2", ReplicaState.PENDING)]
    assert commands == [Deploy(after.replicas[0])]


def test_a_restart_waits_until_the_old_replica_has_ended_even_where_there_is_room() -> None:
    state = a_state(a_replica(state=ReplicaState.RUNNING, gpu_device_ids=["0"]))
    wish, nodes = a_wish(generation=2, revision=2), [a_node(gpus=2, runs=[a_report()])]
    after, commands = planned((wish, state, nodes))
    assert [each.state for each in after.replicas] == [ReplicaState.STOPPING]
    assert commands == [Stop("node-1", "replica-1")]
    stopped = a_state(a_replica(state=ReplicaState.STOPPED, gpu_device_ids=["0"]))
    after, commands = planned((wish, stopped, [a_node()]))
    assert [(each.revision, each.state) for each in after.replicas] == [(2, ReplicaState.PENDING)]


def test_a_failed_replica_is_shown_and_kept_for_its_logs_until_it_is_no_longer_wanted() -> None:
    state = a_state(a_replica(state=ReplicaState.FAILED, message="no such backend"))
    node = a_node(runs=[a_report(state=ReplicaState.FAILED)])
    after, commands = planned((a_wish(), state, [node]))
    assert (after.replicas, commands) == (state.replicas, [])
    _, commands = planned((a_wish(desired=Desired.STOPPED), state, [node]))
    assert commands == [Stop("node-1", "replica-1")]


def test_a_failed_replica_is_tried_anew_by_a_new_revision() -> None:
    state = a_state(a_replica(state=ReplicaState.FAILED))
    node = a_node(runs=[a_report(state=ReplicaState.FAILED)])
    after, commands = planned((a_wish(generation=2, revision=2), state, [node]))
    assert [each.replica_id for each in after.replicas] == ["replica-new-1"]
    assert commands == [Deploy(after.replicas[0]), Stop("node-1", "replica-1")]


def test_what_a_node_runs_without_anybody_knowing_is_stopped() -> None:
    _, commands = planned((a_wish(replicas=0), a_state(), [a_node(runs=[a_report("replica-stray")])]))
    assert commands == [Stop("node-1", "replica-stray")]


def test_a_replica_that_turns_up_on_another_node_is_stopped_there() -> None:
    state = a_state(a_replica(state=ReplicaState.RUNNING))
    nodes = [a_node(runs=[a_report()]), a_node("node-2", runs=[a_report()])]
    assert planned((a_wish(), state, nodes))[1] == [Stop("node-2", "replica-1")]


def test_the_replicas_of_another_deployment_are_not_touched() -> None:
    node = a_node(runs=[a_report("replica-9", deployment_id="deploy-9")])
    assert planned((a_wish(replicas=0), a_state(), [node]))[1] == []


def test_strays_are_what_runs_for_a_deployment_that_is_no_longer_there() -> None:
    fleet = a_fleet(
        a_node("node-1", runs=[a_report(), a_report("replica-9", deployment_id="deploy-9")]),
        a_node("node-2", runs=None),
    )
    assert strays(fleet, {"deploy-1"}) == [("deploy-9", Stop("node-1", "replica-9"))]


def test_a_forced_stop_gives_up_what_its_away_node_runs_and_an_ordinary_one_waits() -> None:
    state = a_state(a_replica(state=ReplicaState.LOST))
    stopped = a_wish(desired=Desired.STOPPED)
    after, _ = planned((stopped, state, [a_node(runs=None)]))
    assert after.replicas[0].state is ReplicaState.STOPPING
    assert after.replicas[0].message == "it stops when its node returns"
    after, commands = planned((stopped.model_copy(update={"stop_force": True}), state, [a_node(runs=None)]))
    assert after.replicas[0].state is ReplicaState.STOPPED
    assert commands == []


def test_scaling_down_keeps_what_runs() -> None:
    waiting, running = (
        a_replica("replica-1", state=ReplicaState.STARTING),
        a_replica("replica-2", state=ReplicaState.RUNNING),
    )
    runs = [a_report("replica-1", ReplicaState.STARTING), a_report("replica-2")]
    after, commands = planned((a_wish(), a_state(waiting, running), [a_node(runs=runs)]))
    assert [each.state for each in after.replicas] == [ReplicaState.STOPPING, ReplicaState.RUNNING]
    assert commands == [Stop("node-1", "replica-1")]


def test_without_a_node_that_fits_the_reason_is_kept() -> None:
    wish = a_wish(hardware_profile=HardwareProfile.MULTI_GPU)
    after, commands = planned((wish, a_state(), [a_node()]))
    assert commands == []
    assert after.waiting_reason == "no node fits: 1 x it has 1 fitting free GPUs of the 2 needed"
    settled = rules.settled(a_state(), after, wish, now=NOW)
    assert (settled.status, settled.status_reason) == (DeploymentStatus.QUEUED, after.waiting_reason)


@tried
@given(situation=situations())
def test_while_the_controller_is_isolated_no_replica_is_given_up(situation: Situation) -> None:
    wish, state, nodes = situation
    fleet = a_fleet(*nodes, states=[state])
    fleet.isolated = True
    after, _ = plan(wish, state, READY_MODEL, fleet, Ids())
    away = {node.node_id for node in nodes if node.inventory is None}
    before = {each.replica_id: each.state for each in state.replicas if each.node_id in away and each.active}
    for replica in after.replicas:
        if replica.state is ReplicaState.LOST:
            assert before.get(replica.replica_id, replica.state) is ReplicaState.LOST


def test_of_two_replicas_with_one_device_the_younger_that_does_not_run_yet_goes() -> None:
    older, younger = (a_replica(f"replica-{n}", state=ReplicaState.STARTING, gpu_device_ids=["0"]) for n in (1, 2))
    states = [a_state(older), a_state(younger)]
    fleet = a_fleet(a_node(runs=[a_report(each.replica_id, each.state) for each in (older, younger)]), states=states)
    after, commands = plan(a_wish(), states[1], READY_MODEL, fleet, Ids())
    assert [(each.replica_id, each.state) for each in after.replicas] == [("replica-2", ReplicaState.STOPPING)]
    assert commands[0] == Stop("node-1", "replica-2")
    after, _ = plan(a_wish(), states[0], READY_MODEL, fleet, Ids())
    assert [(each.replica_id, each.state) for each in after.replicas] == [("replica-1", ReplicaState.STARTING)]


def test_two_running_replicas_with_one_device_are_left_alone() -> None:
    states = [a_state(a_replica(f"replica-{n}", state=ReplicaState.RUNNING, gpu_device_ids=["0"])) for n in (1, 2)]
    fleet = a_fleet(a_node(runs=[a_report(f"replica-{n}") for n in (1, 2)]), states=states)
    for state in states:
        assert plan(a_wish(), state, READY_MODEL, fleet, Ids())[0].replicas == state.replicas


def test_of_replicas_that_share_a_device_the_youngest_that_no_longer_fits_goes() -> None:
    shares = {"replica-1": 9_000, "replica-2": 9_000, "replica-3": 6_000}
    sharing = [
        a_replica(each, state=ReplicaState.STARTING, gpu_device_ids=["0"], gpu_share=share)
        for each, share in shares.items()
    ]
    states = [a_state(each) for each in sharing]
    node = a_node(runs=[a_report(each.replica_id, each.state) for each in sharing])
    after = [plan(a_wish(), each, READY_MODEL, a_fleet(node, states=states), Ids())[0].replicas[0] for each in states]
    assert [each.state for each in after] == [ReplicaState.STARTING, ReplicaState.STOPPING, ReplicaState.STARTING]
    assert after[1].message == "its GPU is another replica's"
