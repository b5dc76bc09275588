"""What to do about a deployment: the stored wish and the nodes' own reports in, the next state and commands out.

Pure and level-triggered: the same inputs give the same plan, and a plan made twice does no harm, as commands are
idempotent. Nothing is concluded from a node that has not reported in its current session.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass

from aiwm.deployments.placement import Fleet, Need, place, why_nowhere
from aiwm.deployments.records import DeploymentState, Replica, Wish, container_id
from aiwm.deployments.rules import absorbed
from aiwm.protocol.states import Desired, ReplicaState


@dataclass(frozen=True, slots=True)
class Deploy:
    """Have this replica's node run it."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class Stop:
    """Have a node end a replica."""

    node_id: str
    replica_id: str


Command = Deploy | Stop

_NOT_YET = frozenset({ReplicaState.PENDING, ReplicaState.PREPARING, ReplicaState.STARTING})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`problem` says why the model cannot be deployed now; None when it can."""

    name: str
    problem: str | None


def need_of(wish: Wish) -> Need:
    """What one replica of the deployment asks of a node."""
    return Need(
        org_id=wish.owner.org_id,
        engine=wish.engine,
        profile=wish.hardware_profile,
        resources=wish.resources,
        selector=wish.node_selector,
        pinned_node_id=wish.pinned_node_id,
        image=wish.image,
    )


def wanted(wish: Wish) -> int:
    """How many replicas there should be."""
    return wish.replicas if wish.desired is Desired.RUNNING and not wish.deleting else 0


def plan(
    wish: Wish, state: DeploymentState, model: ModelFacts, fleet: Fleet, new_id: Callable[[], str]
) -> tuple[DeploymentState, list[Command]]:
    """The state as it should be recorded next, and what to send. `fleet` is marked with what new replicas take."""
    replicas = [_seen_now(replica, fleet) for replica in state.replicas]
    replicas = _stopping_what_is_too_many(wish, replicas, fleet)
    replicas = [_yielding(wish, each, fleet) for each in replicas]
    replicas = _without_history(wish, replicas)
    waiting: str | None = None
    missing = _missing(wish, replicas)
    if missing and model.problem is not None:
        waiting = model.problem
    elif missing:
        replicas, waiting = _placed(wish, replicas, missing, fleet, new_id)
    after = state.model_copy(update={"replicas": replicas, "waiting_reason": waiting, "model_name": model.name})
    return after, _commands(wish, replicas, fleet)


def _seen_now(replica: Replica, fleet: Fleet) -> Replica:
    if not replica.active:
        return replica
    node = fleet.nodes.get(replica.node_id)
    if node is None:
        return replica.model_copy(update={"state": ReplicaState.STOPPED, "message": "its node was deleted"})
    if node.inventory is None:
        known_gone = node.offline and not fleet.isolated
        return _lost(replica, node.name) if known_gone and replica.state is not ReplicaState.STOPPING else replica
    report = node.inventory.get(replica.replica_id)
    if report is not None:
        return absorbed(replica, report)
    if replica.state in (ReplicaState.RUNNING, ReplicaState.UNHEALTHY, ReplicaState.LOST):
        return replica.model_copy(
            update={"state": ReplicaState.PENDING, "health": None, "message": "its node no longer runs it"}
        )
    return replica


def _lost(replica: Replica, node_name: str) -> Replica:
    return replica.model_copy(
        update={"state": ReplicaState.LOST, "health": None, "message": f"its node {node_name} is offline"}
    )


def _stopping_what_is_too_many(wish: Wish, replicas: list[Replica], fleet: Fleet) -> list[Replica]:
    current = [each for each in replicas if _current(wish, each)]
    current.sort(key=lambda each: (each.state is not ReplicaState.RUNNING, each.replica_id))
    keep = {each.replica_id for each in current[: wanted(wish)]}
    return [each if each.replica_id in keep or not each.active else _stopping(wish, each, fleet) for each in replicas]


def _stopping(wish: Wish, replica: Replica, fleet: Fleet) -> Replica:
    node = fleet.nodes.get(replica.node_id)
    away = node is None or not node.reachable
    if away and wish.stop_force:
        return replica.model_copy(update={"state": ReplicaState.STOPPED, "message": "given up while its node was away"})
    message = "it stops when its node returns" if away else None
    return replica.model_copy(update={"state": ReplicaState.STOPPING, "health": None, "message": message})


def _yielding(wish: Wish, replica: Replica, fleet: Fleet) -> Replica:
    """Two controllers that plan at once may give one device away twice; the younger goes, unless it runs."""
    claim = (replica.node_id, replica.gpu_device_ids, replica.replica_id, replica.gpu_share)
    if replica.state not in _NOT_YET or fleet.stands(*claim):
        return replica
    return _stopping(wish, replica, fleet).model_copy(update={"message": "its GPU is another replica's"})


def _current(wish: Wish, replica: Replica) -> bool:
    return replica.active and replica.revision == wish.revision and replica.state is not ReplicaState.STOPPING


def _without_history(wish: Wish, replicas: list[Replica]) -> list[Replica]:
    """Ended replicas are shown until the wish asks for others."""
    return [each for each in replicas if each.active or each.revision == wish.revision or not wanted(wish)]


def _missing(wish: Wish, replicas: list[Replica]) -> int:
    if any(each.active and not _current(wish, each) for each in replicas):
        return 0
    taken = [each for each in replicas if _current(wish, each) or each.state is ReplicaState.FAILED]
    return max(wanted(wish) - len(taken), 0)


def _placed(
    wish: Wish, replicas: list[Replica], missing: int, fleet: Fleet, new_id: Callable[[], str]
) -> tuple[list[Replica], str | None]:
    replicas = [each for each in replicas if each.state is not ReplicaState.STOPPED]
    need = need_of(wish)
    for _ in range(missing):
        placement, rejected = place(need, fleet)
        if placement is None:
            return replicas, why_nowhere(rejected)
        replica_id = new_id()
        devices = list(placement.gpu_device_ids)
        fleet.take(placement.node_id, devices, replica_id, need.gpu_share)
        replicas = [
            *replicas,
            Replica(
                replica_id=replica_id,
                node_id=placement.node_id,
                generation=wish.generation,
                revision=wish.revision,
                gpu_device_ids=devices,
                gpu_share=need.gpu_share,
                container_name=container_id(wish.name, replica_id),
                message=placement.reason,
            ),
        ]
    return replicas, None


def _commands(wish: Wish, replicas: list[Replica], fleet: Fleet) -> list[Command]:
    commands: list[Command] = []
    kept = {each.replica_id: each for each in replicas if each.active or _worth_keeping(wish, each)}
    for replica in kept.values():
        node = fleet.nodes.get(replica.node_id)
        if node is None or node.inventory is None:
            continue
        if replica.state is ReplicaState.STOPPING:
            commands.append(Stop(replica.node_id, replica.replica_id))
        elif replica.active and replica.replica_id not in node.inventory:
            commands.append(Deploy(replica))
    commands.extend(
        Stop(node_id, report.replica_id)
        for node_id, report in fleet.reported(wish.id)
        if not _belongs(kept.get(report.replica_id), node_id)
    )
    return commands


def _worth_keeping(wish: Wish, replica: Replica) -> bool:
    """A failed replica stays on its node while it is shown, for its logs."""
    return replica.state is ReplicaState.FAILED and wanted(wish) > 0


def _belongs(replica: Replica | None, node_id: str) -> bool:
    return replica is not None and replica.node_id == node_id


def strays(fleet: Fleet, live: Container[str]) -> list[tuple[str, Stop]]:
    """What nodes run for deployments that are not in `live`: each deployment's id, and the stop that would end it."""
    return [
        (report.deployment_id, Stop(node.node_id, report.replica_id))
        for node in fleet.nodes.values()
        for report in (node.inventory or {}).values()
        if report.deployment_id not in live
    ]
