"""How a deployment's state follows from its replicas, and the story it tells of every turn: pure."""

from datetime import datetime

from aiwm.deployments.records import EVENTS, READY, DeploymentState, Replica, Wish
from aiwm.kit.clock import iso, seconds_between
from aiwm.protocol.node_channel import DeploymentStatusReport, ModelProgress, ReplicaReport
from aiwm.protocol.notifications import QUEUE
from aiwm.protocol.resources.deployments import DeploymentEvent
from aiwm.protocol.states import DeploymentStatus, Desired, EventSeverity, ReplicaState, Severity

EMBEDDED_EVENTS = 50
CRASHLOOP_RESTARTS = 3
"""From how many starts after a crash on people are told."""

_STATE_OF = {
    DeploymentStatus.QUEUED: ReplicaState.PENDING,
    DeploymentStatus.DEPLOYING: ReplicaState.STARTING,
    DeploymentStatus.RUNNING: ReplicaState.RUNNING,
    DeploymentStatus.STOPPED: ReplicaState.STOPPED,
    DeploymentStatus.FAILED: ReplicaState.FAILED,
}
_REPORTED = ("endpoint", "container_name", "container_port", "health", "started_at", "message")


def as_replica_report(report: DeploymentStatusReport, replica: Replica) -> ReplicaReport:
    """A `deployment.status` as news of one replica; what it leaves out stays as known."""
    state = report.state or _STATE_OF[report.status]
    named = {name: getattr(report, name) for name in _REPORTED}
    return ReplicaReport(
        deployment_id=report.deployment_id,
        replica_id=replica.replica_id,
        generation=replica.generation if report.generation is None else report.generation,
        state=state,
        gpu_device_ids=report.gpu_device_ids if report.gpu_device_ids is not None else replica.gpu_device_ids,
        restarts=replica.restarts if report.restarts is None else report.restarts,
        **{
            name: getattr(replica, name) if value is None and name != "message" else value
            for name, value in named.items()
        },
    )


def as_recorded(deployment_id: str, replica: Replica) -> ReplicaReport:
    """A replica as its node would report it, had nothing changed since it was last heard of.

    One that is only out of sight is taken to serve, as nobody saw it end.
    """
    if replica.state is ReplicaState.LOST:
        replica = replica.model_copy(update={"state": ReplicaState.RUNNING, "message": None})
    return ReplicaReport(
        deployment_id=deployment_id,
        replica_id=replica.replica_id,
        generation=replica.generation,
        state=replica.state,
        gpu_device_ids=replica.gpu_device_ids,
        restarts=replica.restarts,
        **{name: getattr(replica, name) for name in _REPORTED},
    )


def absorbed(replica: Replica, report: ReplicaReport) -> Replica:
    """The replica as its node reports it; a report from before its start, or of one that has ended, changes nothing."""
    if not replica.active or report.generation < replica.generation:
        return replica
    if replica.state is ReplicaState.STOPPING and report.state is not ReplicaState.STOPPED:
        if report.state is not ReplicaState.FAILED:
            return replica
        return replica.model_copy(update={"state": ReplicaState.STOPPED, "health": None, "message": report.message})
    changes = {name: getattr(report, name) for name in _REPORTED if getattr(report, name) is not None}
    changes.update(state=report.state, restarts=report.restarts, message=report.message)
    if report.gpu_device_ids:
        changes["gpu_device_ids"] = report.gpu_device_ids
    if report.state is ReplicaState.STOPPED:
        changes["health"] = None
    return replica.model_copy(update=changes)


def fetched(report: ModelProgress) -> str:
    """How far a download is, in words."""
    done = f"{report.bytes_done / 2**20:.0f} MiB"
    return f"fetching the model: {done}" + (f" of {report.bytes_total / 2**20:.0f}" if report.bytes_total else "")


def with_replica(state: DeploymentState, changed: Replica) -> DeploymentState:
    """The state with one of its replicas changed."""
    replicas = [changed if each.replica_id == changed.replica_id else each for each in state.replicas]
    return state.model_copy(update={"replicas": replicas})


def settled(before: DeploymentState, after: DeploymentState, wish: Wish, *, now: datetime) -> DeploymentState:
    """`after` with its status, uptime and story brought up to date; `before` itself when nothing has changed."""
    status, reason = _status(wish, after)
    if status is None:
        status = before.status
    after = after.model_copy(update={"status": status, "status_reason": reason})
    after = _counted(before, after, now)
    if _at_rest(wish, after):
        after = after.model_copy(update={"observed_generation": wish.generation})
    if any(replica.health for replica in after.replicas) and after.replicas != before.replicas:
        after = after.model_copy(update={"last_health_check": now})
    if after == before:
        return before
    return _told(before, after, wish, now)


def _status(wish: Wish, state: DeploymentState) -> tuple[DeploymentStatus | None, str | None]:
    active = [each for each in state.replicas if each.active]
    ready = [each for each in active if each.state in READY]
    if wish.desired is Desired.STOPPED or wish.deleting or wish.replicas == 0:
        if active:
            return None, next((each.message for each in active if each.message), "stopping")
        return DeploymentStatus.STOPPED, "idle" if wish.replicas == 0 and wish.desired is Desired.RUNNING else None
    if ready:
        complete = len(ready) >= wish.replicas
        return DeploymentStatus.RUNNING, None if complete else f"{len(ready)} of {wish.replicas} ready"
    failed = [each for each in state.replicas if each.state is ReplicaState.FAILED]
    if failed and not active:
        return DeploymentStatus.FAILED, failed[-1].message or "the engine failed"
    if active:
        return DeploymentStatus.DEPLOYING, next((each.message for each in active if each.message), None)
    return DeploymentStatus.QUEUED, state.waiting_reason


def _counted(before: DeploymentState, after: DeploymentState, now: datetime) -> DeploymentState:
    running = after.status is DeploymentStatus.RUNNING
    if running and before.running_since is None:
        return after.model_copy(update={"running_since": now})
    if not running and before.running_since is not None:
        spent = before.uptime_before + seconds_between(before.running_since, now)
        return after.model_copy(update={"running_since": None, "uptime_before": spent})
    return after


def _at_rest(wish: Wish, state: DeploymentState) -> bool:
    active = [each for each in state.replicas if each.active]
    if state.status is DeploymentStatus.STOPPED:
        return not active
    current = [each for each in active if each.revision == wish.revision and each.state in READY]
    return state.status is DeploymentStatus.FAILED or (len(current) == len(active) == wish.replicas)


def _told(before: DeploymentState, after: DeploymentState, wish: Wish, now: datetime) -> DeploymentState:
    known = {each.replica_id: each for each in before.replicas}
    for replica in after.replicas:
        after = _replica_story(known.get(replica.replica_id), replica, after, wish, now)
    if after.status is not before.status:
        after = _turn(after, wish, now)
    elif (
        after.status is DeploymentStatus.QUEUED and after.status_reason != before.status_reason and after.status_reason
    ):
        after = _logged(after, "model.deployment.waiting", after.status_reason, EventSeverity.WARNING, now)
    return after


def _replica_story(
    old: Replica | None, new: Replica, state: DeploymentState, wish: Wish, now: datetime
) -> DeploymentState:
    if old is None:
        return _logged(state, "replica.placed", new.message or f"placed on {new.node_id}", EventSeverity.INFO, now)
    if new.restarts > old.restarts:
        text = f"the engine was started again ({new.restarts} times): {new.message or 'it had ended'}"
        state = _logged(state, "replica.restarted", text, EventSeverity.WARNING, now)
    if _crashes(old, new):
        state = _alarmed(state, new, wish, now)
    if new.state is old.state:
        return state
    bad = new.state in (ReplicaState.FAILED, ReplicaState.UNHEALTHY, ReplicaState.LOST)
    severity = EventSeverity.ERROR if new.state is ReplicaState.FAILED else EventSeverity.WARNING
    text = f"replica {new.replica_id} is {new.state.value}" + (f": {new.message}" if new.message else "")
    state = _logged(state, f"replica.{new.state.value}", text, severity if bad else EventSeverity.INFO, now)
    if new.state in (ReplicaState.PREPARING, ReplicaState.STARTING):
        state = _notified(
            state, wish, "model.deployment.progress", now, {"replicaId": new.replica_id, "state": new.state.value}
        )
    return state


def _crashes(old: Replica, new: Replica) -> bool:
    """Whether it keeps crashing, or was given up after crashes, and nobody was told of this generation yet."""
    if new.crashloop_told == new.generation:
        return False
    again = new.restarts > old.restarts and new.restarts >= CRASHLOOP_RESTARTS
    given_up = new.state is ReplicaState.FAILED and old.state is not ReplicaState.FAILED and new.restarts > 0
    return again or given_up


def _alarmed(state: DeploymentState, replica: Replica, wish: Wish, now: datetime) -> DeploymentState:
    known = replica.model_copy(update={"crashloop_told": replica.generation})
    recipients: dict[str, object] = {"userIds": sorted({each for each in (wish.created_by, wish.updated_by) if each})}
    if wish.owner.org_id:
        recipients["orgIds"] = [wish.owner.org_id]
    how = "was given up" if replica.state is ReplicaState.FAILED else "keeps crashing"
    about: dict[str, object] = {"deploymentId": state.id, "modelName": state.model_name, "status": state.status.value}
    data: dict[str, object] = {
        "name": "deployment.crashloop",
        "title": f"{wish.name} {how}",
        "message": f"the engine was started {replica.restarts} times again: {replica.message or 'it ends'}"[:4096],
        "severity": Severity.HIGH.value,
        "data": {
            **about,
            "replicaId": replica.replica_id,
            "nodeId": replica.node_id,
            "restarts": replica.restarts,
            "generation": replica.generation,
        },
        "metadata": {"correlationId": wish.correlation_id, "orgId": wish.owner.org_id, "timestamp": iso(now)},
        "recipients": recipients,
    }
    job: dict[str, object] = {"event": "service.alert", "data": data}
    return with_replica(state, known).telling(QUEUE, "service.alert", job, at=now)


_TURNS = {
    DeploymentStatus.DEPLOYING: ("model.deployment.started", "deploying", EventSeverity.INFO),
    DeploymentStatus.RUNNING: ("model.deployment.running", "ready for inference", EventSeverity.INFO),
    DeploymentStatus.STOPPED: ("model.deployment.stopped", "stopped", EventSeverity.INFO),
    DeploymentStatus.FAILED: ("model.deployment.failed", "failed", EventSeverity.ERROR),
    DeploymentStatus.QUEUED: ("model.deployment.waiting", "waiting for a node", EventSeverity.WARNING),
}


def _turn(state: DeploymentState, wish: Wish, now: datetime) -> DeploymentState:
    name, text, severity = _TURNS[state.status]
    message = f"{text}: {state.status_reason}" if state.status_reason else text
    state = _logged(state, name, message, severity, now)
    if state.status is DeploymentStatus.QUEUED:
        return state
    extra: dict[str, object] = {"error": state.status_reason} if state.status is DeploymentStatus.FAILED else {}
    return _notified(state, wish, name, now, extra)


def _logged(
    state: DeploymentState, event: str, message: str, severity: EventSeverity, now: datetime
) -> DeploymentState:
    line = DeploymentEvent(timestamp=now, event=event, message=message[:4096], severity=severity)
    state = state.model_copy(update={"events": [*state.events, line][-EMBEDDED_EVENTS:]})
    return state.recording(EVENTS, {**line.to_wire(), "deploymentId": state.id}, at=now)


def _notified(
    state: DeploymentState, wish: Wish, name: str, now: datetime, extra: dict[str, object]
) -> DeploymentState:
    """Tells the owner; `data` begins with the source's `deploymentId, modelName, status`."""
    about = {"deploymentId": state.id, "modelName": state.model_name, "status": state.status.value, **extra}
    user = wish.updated_by or wish.created_by
    data: dict[str, object] = {
        "name": name,
        "data": about,
        "metadata": {"correlationId": wish.correlation_id, "orgId": wish.owner.org_id, "timestamp": iso(now)},
        "recipients": {"userIds": sorted({each for each in (wish.created_by, user) if each})},
    }
    return state.telling(QUEUE, "service.event", {"event": "service.event", "data": data}, at=now)
