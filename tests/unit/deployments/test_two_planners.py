"""Two controllers plan at once, each from wishes and reports that it saw late; only states are compared and set."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import READY_MODEL, overfull, tried
from tests.unit.deployments.simulated import Machine, Simulation

from aiwm.deployments import rules
from aiwm.deployments.placement import Fleet
from aiwm.deployments.planner import plan, strays, wanted
from aiwm.deployments.records import DeploymentState, Wish
from aiwm.protocol.states import ReplicaState


@dataclass
class View:
    """What one controller knew when it last heard from the other."""

    wishes: dict[str, Wish] = field(default_factory=dict)
    states: dict[str, DeploymentState] = field(default_factory=dict)
    fleet: Fleet = field(default_factory=lambda: Fleet({}))


@dataclass
class TwoPlanners(Simulation):
    """`views` are refreshed now and then while there are faults, and at each look when there are none."""

    views: list[View] = field(default_factory=lambda: [View(), View()])

    def reconcile(self) -> None:
        for view in self.views:
            if not self.faults or self.random.random() < 0.4:
                self.refresh(view)
            if not self.faults or self.random.random() < 0.7:
                self.plan_from(view)

    def refresh(self, view: View) -> None:
        """Everything, or, while there are faults, some of it: notices come one by one."""
        if self._heard():
            view.wishes = dict(self.wishes)
        if self._heard():
            view.states = dict(self.states)
        if self._heard():
            # What a session says later is not seen before the next refresh.
            view.fleet = Fleet(dict(super().fleet().nodes))

    def _heard(self) -> bool:
        return not self.faults or self.random.random() < 0.5

    def plan_from(self, view: View) -> None:
        fleet = Fleet(view.fleet.nodes)
        for state in view.states.values():
            for replica in state.replicas:
                if replica.active:
                    fleet.take(replica.node_id, replica.gpu_device_ids, replica.replica_id, replica.gpu_share)
        for deployment_id, wish in view.wishes.items():
            before = self.states.get(deployment_id)
            if before is None:
                continue
            after, commands = plan(wish, before, READY_MODEL, fleet, self.ids)
            after = rules.settled(before, after, wish, now=self.now())
            self.keep(before, after)
            view.states[deployment_id] = self.states[deployment_id]
            if wish.deleting and not commands and not any(each.active for each in after.replicas):
                del self.wishes[deployment_id], self.states[deployment_id]
                continue
            self.wire.extend((self._node_of(command), deployment_id, command) for command in commands)
        # Of a deployment that it does not know it concludes nothing: it asks the store whether it was deleted.
        unknown = strays(fleet, view.wishes)
        self.wire.extend((stop.node_id, each, stop) for each, stop in unknown if each not in self.wishes)


@dataclass
class CountingMachine(Machine):
    starts: Counter[str] = field(default_factory=Counter)

    def deploy(self, deployment_id: str, order: object) -> None:
        before = set(self.engines)
        super().deploy(deployment_id, order)  # type: ignore[arg-type]
        self.starts.update(set(self.engines) - before)


def a_world(seed: int) -> TwoPlanners:
    world = TwoPlanners(Random(seed), machines=[CountingMachine(f"node-{n}", gpus=4) for n in range(1, 4)])
    for machine in world.machines:
        world.connect(machine)
    return world


def forgetful(world: TwoPlanners) -> bool:
    """Whether a node lost its memory, after which it is right to start its replicas again."""
    return any(set(machine.starts) - set(machine.engines) - machine.buried for machine in counted(world))


def counted(world: TwoPlanners) -> list[CountingMachine]:
    return [machine for machine in world.machines if isinstance(machine, CountingMachine)]


@tried
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 60))
def test_no_replica_is_ever_started_twice(seed: int, steps: int) -> None:
    world = a_world(seed)
    for _ in range(steps):
        world.step()
        if forgetful(world):
            return
    starts = Counter[str]()
    for machine in counted(world):
        starts.update(machine.starts)
    assert all(count == 1 for count in starts.values())


@tried
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 80))
def test_once_both_see_the_same_again_what_is_wanted_runs_and_nothing_else_does(seed: int, steps: int) -> None:
    world = a_world(seed)
    for _ in range(steps):
        world.step()
    world.calm()
    for wish in world.wishes.values():
        running = [each for each in world.states[wish.id].replicas if each.state is ReplicaState.RUNNING]
        assert world.least(wish) <= len(running) <= wanted(wish)
        assert not wish.deleting, "a deleted deployment stays"
    recorded = {
        (replica.node_id, replica.replica_id)
        for state in world.states.values()
        for replica in state.replicas
        if replica.active or replica.state is ReplicaState.FAILED
    }
    actual = {(machine.node_id, replica_id) for machine in world.machines for replica_id in machine.engines}
    assert actual <= recorded, "an engine nobody wants is left running"
    assert len(world.told) == len(set(world.told)), "a fact was told twice"


@tried
@given(seed=st.integers(0, 2**32))
def test_a_device_that_was_given_away_twice_is_given_back_by_whoever_does_not_run_yet(seed: int) -> None:
    world = a_world(seed)
    for _ in range(80):
        world.step()
        if doubled(world):
            break
    world.faults = False
    for view in world.views * 2:
        world.refresh(view)
        world.plan_from(view)
    assert not doubled(world)


def doubled(world: TwoPlanners) -> list[tuple[str, str]]:
    """The devices of which replicas that do not run yet wait for more than there is."""
    waiting = {ReplicaState.PENDING, ReplicaState.PREPARING, ReplicaState.STARTING}
    fleet = Fleet(world.fleet().nodes)
    for state in world.states.values():
        for each in state.replicas:
            if each.state in waiting:
                fleet.take(each.node_id, each.gpu_device_ids, each.replica_id, each.gpu_share)
    return overfull(fleet)
