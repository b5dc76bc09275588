"""A controller's pure core against nodes that come, go, forget, and get their commands late, twice or never.

Everything that decides is the product's own; only wires, engines and time are played, one step at a time.
"""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

from tests.unit.deployments.builders import READY_MODEL, Ids, a_wish, later, overfull

from aiwm.deployments import rules
from aiwm.deployments.placement import Fleet, Gpu, NodeFacts
from aiwm.deployments.planner import Command, Deploy, Stop, plan, strays, wanted
from aiwm.deployments.records import DeploymentState, Wish
from aiwm.nodes.presence import Session
from aiwm.protocol.node_channel import ReplicaReport
from aiwm.protocol.resources.deployments import Resources
from aiwm.protocol.states import DeploymentStatus, Desired, ReplicaState

_NOTICE = {
    DeploymentStatus.DEPLOYING: "model.deployment.started",
    DeploymentStatus.RUNNING: "model.deployment.running",
    DeploymentStatus.STOPPED: "model.deployment.stopped",
    DeploymentStatus.FAILED: "model.deployment.failed",
}


@dataclass
class Machine:
    """A node: what its engines do, and what its daemon remembers of stops."""

    node_id: str
    gpus: int
    session: Session | None = None
    engines: dict[str, ReplicaReport] = field(default_factory=dict)
    buried: set[str] = field(default_factory=set)

    def deploy(self, deployment_id: str, order: Deploy) -> None:
        replica = order.replica
        if replica.replica_id in self.buried or replica.replica_id in self.engines:
            return
        self.engines[replica.replica_id] = ReplicaReport(
            deployment_id=deployment_id,
            replica_id=replica.replica_id,
            generation=replica.generation,
            state=ReplicaState.STARTING,
            gpu_device_ids=replica.gpu_device_ids,
        )

    def stop(self, replica_id: str) -> None:
        self.engines.pop(replica_id, None)
        self.buried.add(replica_id)


@dataclass
class Simulation:
    """One world, driven by `random`. `faults` off means that every command arrives, once, and nobody leaves."""

    random: Random
    faults: bool = True
    machines: list[Machine] = field(default_factory=list)
    wishes: dict[str, Wish] = field(default_factory=dict)
    states: dict[str, DeploymentState] = field(default_factory=dict)
    wire: deque[tuple[str, str, Command]] = field(default_factory=deque)
    told: list[str] = field(default_factory=list)
    turns: dict[str, list[str]] = field(default_factory=dict)
    notices: dict[str, list[str]] = field(default_factory=dict)
    ids: Ids = field(default_factory=lambda: Ids("replica"))
    seconds: float = 0.0
    connects: int = 0

    def now(self) -> datetime:
        return later(self.seconds)

    def machine(self, node_id: str) -> Machine:
        return next(each for each in self.machines if each.node_id == node_id)

    def connect(self, machine: Machine) -> None:
        self.connects += 1
        machine.session = Session(machine.node_id, f"sid-{self.connects}", self.connects)
        machine.session.took(machine.engines.values())

    def step(self) -> None:
        """Something happens, then the controller looks."""
        self.seconds += 1.0
        happenings = [self._wish_changes, self._link_changes, self._engine_changes, self._wire_moves, self._wire_moves]
        self.random.choice(happenings)()
        self.reconcile()

    def calm(self) -> None:
        """Everybody is back, every command arrives, every engine comes up."""
        self.faults = False
        for machine in self.machines:
            if machine.session is None:
                self.connect(machine)
        for _ in range(12):
            self.seconds += 1.0
            self.reconcile()
            while self.wire:
                self._wire_moves()
            for machine in self.machines:
                for replica_id in list(machine.engines):
                    self._engine_is(machine, replica_id, ReplicaState.RUNNING)

    def fleet(self) -> Fleet:
        fleet = Fleet({machine.node_id: _facts(machine) for machine in self.machines})
        for state in self.states.values():
            for replica in state.replicas:
                if replica.active:
                    fleet.take(replica.node_id, replica.gpu_device_ids, replica.replica_id, replica.gpu_share)
        return fleet

    def reconcile(self) -> None:
        fleet = self.fleet()
        for deployment_id, wish in list(self.wishes.items()):
            before = self.states[deployment_id]
            after, commands = plan(wish, before, READY_MODEL, fleet, self.ids)
            self.keep(before, rules.settled(before, after, wish, now=self.now()))
            if wish.deleting and not commands and not any(each.active for each in after.replicas):
                del self.wishes[deployment_id], self.states[deployment_id]
                continue
            self.wire.extend((self._node_of(command), deployment_id, command) for command in commands)
        self.wire.extend((stop.node_id, deployment_id, stop) for deployment_id, stop in strays(fleet, self.wishes))

    def keep(self, before: DeploymentState, after: DeploymentState) -> None:
        """What the store and its relay do: each fact is told by its id."""
        if after.status not in (before.status, DeploymentStatus.QUEUED):
            self.turns.setdefault(after.id, []).append(_NOTICE[after.status])
        for fact in after.outbox:
            about = fact.data.get("data")
            if fact.queue is not None and isinstance(about, dict) and about["name"] in _NOTICE.values():
                self.notices.setdefault(after.id, []).append(about["name"])
        self.told += [fact.id for fact in after.outbox]
        self.states[after.id] = after.model_copy(update={"outbox": [], "outbox_since": None})

    def invariants(self) -> None:
        """What must hold at every moment, faults or not."""
        assert not overfull(self.fleet()), "more of a device is held than there is"
        assert len(self.told) == len(set(self.told)), "a fact was told twice"
        assert self.notices == self.turns, "a turn was not told exactly once"
        for deployment_id, state in self.states.items():
            assert len(state.events) <= 50
            assert state.observed_generation <= self.wishes[deployment_id].generation
            assert (state.running_since is not None) is (state.status is DeploymentStatus.RUNNING)
            assert 0.0 <= state.uptime_before <= self.seconds

    @staticmethod
    def _node_of(command: Command) -> str:
        return command.replica.node_id if isinstance(command, Deploy) else command.node_id

    def _wish_changes(self) -> None:
        if len(self.wishes) < 3 and self.random.random() < 0.5:
            deployment_id = f"deploy-{self.ids()}"
            self.wishes[deployment_id] = a_wish(
                deployment_id, replicas=self.random.randint(1, 3), resources=self._resources()
            )
            self.states[deployment_id] = DeploymentState(id=deployment_id)
            return
        if not self.wishes:
            return
        wish = self.random.choice(list(self.wishes.values()))
        if wish.deleting:
            return
        generation = wish.generation + 1
        change: dict[str, object] = self.random.choice(
            [
                {"replicas": self.random.randint(0, 3)},
                {"desired": Desired.STOPPED, "stop_force": self.random.random() < 0.3},
                {"desired": Desired.RUNNING, "revision": generation, "stop_force": False},
                {"desired": Desired.STOPPED, "deleting": True},
                {"resources": self._resources(), "revision": generation},
            ]
        )
        self.wishes[wish.id] = wish.model_copy(update={**change, "generation": generation})

    def _resources(self) -> Resources:
        return Resources(gpu_memory=self.random.choice([None, None, 4_000, 9_000]))

    def _link_changes(self) -> None:
        machine = self.random.choice(self.machines)
        what = self.random.random()
        if machine.session is None:
            self.connect(machine)
        elif what < 0.5:
            machine.session = None
        elif what < 0.7:
            machine.engines, machine.buried = {}, set()
            self.connect(machine)
        else:
            self.connect(machine)

    def _engine_changes(self) -> None:
        machine = self.random.choice(self.machines)
        if machine.engines:
            states = (ReplicaState.RUNNING, ReplicaState.RUNNING, ReplicaState.UNHEALTHY, ReplicaState.FAILED)
            self._engine_is(machine, self.random.choice(list(machine.engines)), self.random.choice(states))

    def _engine_is(self, machine: Machine, replica_id: str, state: ReplicaState) -> None:
        report = machine.engines[replica_id]
        if report.state is ReplicaState.FAILED:
            return
        machine.engines[replica_id] = report = report.model_copy(update={"state": state})
        if machine.session is None:
            return
        machine.session.heard(report)
        before = self.states.get(report.deployment_id)
        replica = next((each for each in before.replicas if each.replica_id == replica_id), None) if before else None
        if before is None or replica is None or replica.node_id != machine.node_id:
            return
        after = rules.with_replica(before, rules.absorbed(replica, report))
        self.keep(before, rules.settled(before, after, self.wishes[before.id], now=self.now()))

    def _wire_moves(self) -> None:
        if not self.wire:
            return
        if self.faults:
            self.wire.rotate(self.random.randint(0, 3))
        item = self.wire.popleft()
        fate = self.random.random() if self.faults else 1.0
        if fate < 0.15:
            return
        if fate < 0.3:
            self.wire.append(item)
        node_id, deployment_id, command = item
        machine = self.machine(node_id)
        if machine.session is None:
            return
        if isinstance(command, Deploy):
            machine.deploy(deployment_id, command)
            engine = machine.engines.get(command.replica.replica_id)
            if engine is not None:
                self._engine_is(machine, engine.replica_id, engine.state)
        else:
            machine.stop(command.replica_id)
            machine.session.forgot(command.replica_id)
            self._stopped(deployment_id, command)

    def _stopped(self, deployment_id: str, command: Stop) -> None:
        before = self.states.get(deployment_id)
        if before is None:
            return
        for replica in before.replicas:
            if replica.replica_id == command.replica_id and replica.active and replica.node_id == command.node_id:
                changed = replica.model_copy(update={"state": ReplicaState.STOPPED, "message": None, "health": None})
                after = rules.with_replica(before, changed)
                self.keep(before, rules.settled(before, after, self.wishes[deployment_id], now=self.now()))

    def least(self, wish: Wish) -> int:
        """How many replicas must run: those wanted, less the failed ones, which nobody replaces."""
        failed = [each for each in self.states[wish.id].replicas if each.state is ReplicaState.FAILED]
        return max(wanted(wish) - len(failed), 0)


def _facts(machine: Machine) -> NodeFacts:
    return NodeFacts(
        node_id=machine.node_id,
        name=machine.node_id,
        org_id=None,
        worker=True,
        schedulable=True,
        labels={},
        engines=frozenset({"triton"}),
        launchers=frozenset({"process"}),
        gpus=tuple(Gpu(str(number), 16_384) for number in range(machine.gpus)),
        ram_free=None,
        inventory=machine.session.inventory if machine.session is not None else None,
        offline=machine.session is None,
    )
