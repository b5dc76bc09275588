"""What is decided about a replica, apart from doing it: which command counts, and what follows when an engine ends."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, Field

from aiwm.daemon.launchers.port import Room
from aiwm.protocol.base import Timestamp, Wire
from aiwm.protocol.node_channel import Artifact, DeployCommand, DeploymentStatusReport, ReplicaReport
from aiwm.protocol.states import DeploymentStatus, ReplicaState

LIVE = frozenset(
    {ReplicaState.PREPARING, ReplicaState.STARTING, ReplicaState.RUNNING, ReplicaState.UNHEALTHY, ReplicaState.PENDING}
)
_MESSAGE_LENGTH = 1000
_GIB = 2**30


class Moment(BaseModel):
    """A monotonic time that a later daemon can still read, as long as the machine was not started again."""

    boot_id: str
    at: float


class ReplicaRecord(Wire):
    """One replica as the daemon keeps it on disk: the order it follows, and how far it has come.

    `started_at` is for people alone; what is decided by time is decided by `served_from` and `restart_due`, which no
    change of the machine's clock can move. `logs_due` until the last output of an engine that ended was sent.
    `trouble` is how the last trial request went wrong.
    """

    order: DeployCommand
    state: ReplicaState = ReplicaState.PENDING
    message: str | None = None
    health: str | None = None
    trouble: str | None = None
    restarts: int = 0
    failures: int = 0
    last_end: str | None = None
    started_at: Timestamp | None = None
    served_from: Moment | None = None
    restart_due: Moment | None = None
    logs_due: bool = False
    endpoint: str | None = None
    port: int | None = None
    probes: list[str] = Field(default_factory=list)
    metrics: str | None = None
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
    """Seconds, and how often.

    The pause before a restart is drawn from the upper half of a range that doubles from `first_restart` to
    `longest_restart`: 10 to 20 s after the first failure, 150 to 300 s from the fifth on. An engine that served for
    `stable` has its earlier failures forgotten. An engine may take `start_timeout` to serve, and `start_per_gib` more
    for each GiB of its model. It is hung when nothing has moved for `hung_after`, or `hung_after_tokens` where single
    tokens are counted, and ended when that goes on for `hung_end`.
    """

    first_restart: float = 20.0
    longest_restart: float = 300.0
    most_failures: int = 5
    stable: float = 120.0
    start_timeout: float = 900.0
    start_per_gib: float = 30.0
    tell_interval: float = 10.0
    watch_interval: float = 1.0
    probe_interval: float = 10.0
    trial_interval: float = 60.0
    trial_seconds: float = 30.0
    unhealthy_after: int = 3
    hung_after: float = 300.0
    hung_after_tokens: float = 60.0
    hung_end: float = 300.0
    grace: float = 30.0


class Next(StrEnum):
    """What follows when an engine has ended by itself."""

    RESTART = "restart"
    FAIL = "fail"


def after_end(*, served: bool, failures: int, policy: Policy) -> tuple[Next, int]:
    """What to do now, and how many failures in a row that makes.

    An engine that never served will not serve the next time either: it fails at once, and the controller is told why
    in seconds. One that did serve gets `most_failures` more chances, with a pause before each.
    """
    count = failures + 1
    if (not served and failures == 0) or count > policy.most_failures:
        return Next.FAIL, count
    return Next.RESTART, count


def pause_after(failures: int, policy: Policy, draw: Callable[[float, float], float]) -> float:
    """Seconds to wait after that many failures in a row; `draw` picks from a range, so that a fleet does not stampede.

    It follows from the count alone, which is on disk: a daemon that is started again goes on with the pauses.
    """
    ceiling: float = min(policy.first_restart * 2.0 ** min(failures - 1, 30), policy.longest_restart)
    return draw(ceiling / 2, ceiling)


def time_left(due: Moment, now: Moment, policy: Policy) -> float:
    """Seconds until `due`; none once the machine was started again, as that ended the engine's environment too."""
    if due.boot_id != now.boot_id:
        return 0.0
    return min(max(due.at - now.at, 0.0), policy.longest_restart)


def start_limit(artifact: Artifact, policy: Policy) -> float:
    """Seconds that an engine may take until it serves this model: large ones take long to load."""
    return policy.start_timeout + policy.start_per_gib * sum(file.size for file in artifact.files) / _GIB


def proven(record: ReplicaRecord, now: Moment, policy: Policy) -> bool:
    """Whether the engine has served long enough for its failures to be forgotten."""
    since = record.served_from
    return since is not None and since.boot_id == now.boot_id and now.at - since.at >= policy.stable


def passing(code: str, *, retryable: bool) -> bool:
    """Whether what kept an engine from being started again is the node's trouble, which may go away by itself."""
    return retryable or code == "RESOURCE_EXHAUSTED"


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


def room_of(order: DeployCommand, folders: tuple[Path, ...]) -> Room:
    """What the order gives its engine of the machine; `folders` are what it may read."""
    return Room(
        name=order.container_id,
        gpus=tuple(order.gpu_device_ids),
        ram=order.resources.ram,
        cpu_cores=order.resources.cpu_cores,
        folders=folders,
    )
