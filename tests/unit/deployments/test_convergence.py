"""A random world with faults, and the same world after they stop: wanted is running, and nothing else is."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import tried
from tests.unit.deployments.simulated import Machine, Simulation

from aiwm.deployments.planner import wanted
from aiwm.protocol.states import DeploymentStatus, ReplicaState


def a_world(seed: int) -> Simulation:
    world = Simulation(Random(seed), machines=[Machine(f"node-{number}", gpus=4) for number in range(1, 4)])
    for machine in world.machines:
        world.connect(machine)
    return world


@tried
@given(seed=st.integers(0, 2**32))
def test_whatever_happens_no_device_is_held_twice_and_no_fact_is_told_twice(seed: int) -> None:
    world = a_world(seed)
    for _ in range(60):
        world.step()
        world.invariants()


@tried
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 80))
def test_once_faults_stop_what_is_wanted_runs_and_nothing_else_does(seed: int, steps: int) -> None:
    world = a_world(seed)
    for _ in range(steps):
        world.step()
    world.calm()
    world.invariants()
    for wish in world.wishes.values():
        state = world.states[wish.id]
        running = [each for each in state.replicas if each.state is ReplicaState.RUNNING]
        assert world.least(wish) <= len(running) <= wanted(wish)
        assert not wish.deleting, "a deleted deployment stays"
        if not wanted(wish):
            assert state.status is DeploymentStatus.STOPPED
            assert state.observed_generation == wish.generation
        elif len(running) == wanted(wish):
            assert (state.status, state.status_reason) == (DeploymentStatus.RUNNING, None)
            assert state.observed_generation == wish.generation
    recorded = {
        (replica.node_id, replica.replica_id)
        for state in world.states.values()
        for replica in state.replicas
        if replica.active or replica.state is ReplicaState.FAILED
    }
    actual = {(machine.node_id, replica_id) for machine in world.machines for replica_id in machine.engines}
    assert actual <= recorded, "an engine nobody wants is left running"


@tried
@given(seed=st.integers(0, 2**32))
def test_a_calm_world_stays_as_it_is(seed: int) -> None:
    world = a_world(seed)
    for _ in range(30):
        world.step()
    world.calm()
    states, told = dict(world.states), list(world.told)
    world.reconcile()
    assert world.states == states
    assert world.told == told
    assert not world.wire


@tried
@given(seed=st.integers(0, 2**32))
def test_a_world_gone_silent_loses_nothing(seed: int) -> None:
    """All nodes leave at once: no engine ends, and when they return the same ones are in use."""
    world = a_world(seed)
    for _ in range(30):
        world.step()
    world.calm()
    before = {machine.node_id: set(machine.engines) for machine in world.machines}
    for machine in world.machines:
        machine.session = None
    for _ in range(5):
        world.seconds += 30
        world.reconcile()
    assert not world.wire
    world.calm()
    assert {machine.node_id: set(machine.engines) for machine in world.machines} == before
