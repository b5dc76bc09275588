"""What is decided about a replica, apart from doing it: which command counts, and what follows when an engine ends."""

from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from aiwm.protocol.base import Timestamp, Wire
from aiwm.protocol.node_channel import DeployCommand, DeploymentStatusReport, ReplicaReport
from aiwm.protocol.states import DeploymentStatus, ReplicaState

LIVE = frozenset(
    {ReplicaState.PREPARING, ReplicaState.STARTING, ReplicaState.RUNNING, ReplicaState.UNHEALTHY, ReplicaState.PENDING}
)
_MESSAGE_LENGTH = 1000


class ReplicaRecord(Wire):
    """One replica as the daemon keeps it on disk: the order it follows, and how far it has come."""

    order: DeployCommand
    state: ReplicaState = ReplicaState.PENDING
    message: str | None = None
    health: str | None = None
    restarts: int = 0
    failures: int = 0
    last_end: str | None = None
    started_at: Timestamp | None = None
    endpoint: str | None = None
    port: int | None = None
    probes: list[str] = Field(default_factory=list)
    grace_seconds: float | None = None
    correlation_id: str | None = None

    @property
    def replica_id(self) -> str:
        return self.order.replica_id

    @property
    def generation(self) -> int:
        return self.order.generation


class Verdict(StrEnum):
    """What a command means, given what is known: do it, it is so already, or it comes too late."""

    ACT = "act"
    ALREADY = "already"
    STALE = "stale"
    GONE = "gone"


def judge_deploy(known: ReplicaRecord | None, buried: int | None, generation: int) -> Verdict:
    """`buried` is the newest generation known to have been stopped.

    A failed replica is tried again by a deploy of its own generation; one that was stopped needs a newer one.
    """
    if known is None:
        return Verdict.GONE if buried is not None and generation <= buried else Verdict.ACT
    if generation < known.generation:
        return Verdict.STALE
    if generation > known.generation or known.state is ReplicaState.FAILED:
        return Verdict.ACT
    return Verdict.ALREADY if known.state in LIVE else Verdict.GONE


def judge_stop(known: ReplicaRecord | None, generation: int | None) -> Verdict:
    """A stop without a generation always counts."""
    if known is None:
        return Verdict.ALREADY
    if generation is not None and generation < known.generation:
        return Verdict.STALE
    return Verdict.ACT


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds, and how often. An engine that served for `stable` has its earlier failures forgotten."""

    first_restart: float = 20.0
    longest_restart: float = 300.0
    most_failures: int = 5
    stable: float = 120.0
    start_timeout: float = 1800.0
    watch_interval: float = 1.0
    probe_interval: float = 10.0
    unhealthy_after: int = 3
    grace: float = 30.0


class Next(StrEnum):
    """What follows when an engine has ended by itself."""

    RESTART = "restart"
    FAIL = "fail"


def after_end(*, served: bool, served_seconds: float, failures: int, policy: Policy) -> tuple[Next, int]:
    """What to do now, and how many failures in a row that makes.

    An engine that never served will not serve the next time either; one that did gets `most_failures` more chances.
    """
    count = 1 if served_seconds >= policy.stable else failures + 1
    if (not served and failures == 0) or count > policy.most_failures:
        return Next.FAIL, count
    return Next.RESTART, count


_STATUS = {
    ReplicaState.PENDING: DeploymentStatus.DEPLOYING,
    ReplicaState.PREPARING: DeploymentStatus.DEPLOYING,
    ReplicaState.STARTING: DeploymentStatus.DEPLOYING,
    ReplicaState.RUNNING: DeploymentStatus.RUNNING,
    ReplicaState.UNHEALTHY: DeploymentStatus.RUNNING,
    ReplicaState.STOPPING: DeploymentStatus.RUNNING,
    ReplicaState.STOPPED: DeploymentStatus.STOPPED,
    ReplicaState.FAILED: DeploymentStatus.FAILED,
    ReplicaState.LOST: DeploymentStatus.FAILED,
}


def shorten(message: str) -> str:
    """`message` as it fits into a report."""
    return message if len(message) <= _MESSAGE_LENGTH else f"{message[: _MESSAGE_LENGTH - 1]}…"


def report(record: ReplicaRecord) -> ReplicaReport:
    """The replica as the node's inventory says it."""
    return ReplicaReport(
        deployment_id=record.order.deployment_id,
        replica_id=record.replica_id,
        generation=record.generation,
        state=record.state,
        endpoint=record.endpoint,
        container_name=record.order.container_id,
        container_port=record.port,
        gpu_device_ids=record.order.gpu_device_ids,
        health=record.health,
        restarts=record.restarts,
        started_at=record.started_at,
        message=record.message,
    )


def status_report(record: ReplicaRecord) -> DeploymentStatusReport:
    """The replica as `deployment.status` says it."""
    return DeploymentStatusReport(
        deployment_id=record.order.deployment_id,
        replica_id=record.replica_id,
        status=_STATUS[record.state],
        state=record.state,
        generation=record.generation,
        endpoint=record.endpoint,
        container_name=record.order.container_id,
        container_port=record.port,
        gpu_device_ids=record.order.gpu_device_ids,
        health=record.health,
        restarts=record.restarts,
        started_at=record.started_at,
        message=record.message,
    )
