"""What is stored of a deployment: the wish, written by users, and the state, written by the reconciler."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from aiwm.infra.store.outbox import TellingRecord
from aiwm.infra.store.records import OwnedRecord, StoredRecord
from aiwm.kit.clock import seconds_between
from aiwm.protocol.base import Timestamp
from aiwm.protocol.node_channel import EngineNumbers, ReplicaUsage
from aiwm.protocol.resources.deployments import (
    Deployment,
    DeploymentEvent,
    EngineLoad,
    ReplicaDetail,
    ReplicaLoad,
    ReplicaStatus,
    Resources,
    Strategy,
)
from aiwm.protocol.states import (
    DeploymentStatus,
    DeploymentType,
    Desired,
    EngineName,
    Environment,
    HardwareProfile,
    ReplicaState,
)

DEPLOYMENTS = "deployments"
STATES = "deploymentStates"
EVENTS = "deploymentEvents"
USAGE = "deploymentUsage"

TERMINAL = frozenset({ReplicaState.STOPPED, ReplicaState.FAILED})
READY = frozenset({ReplicaState.RUNNING})


class Wish(OwnedRecord):
    """What users want. `generation` counts its changes; `revision` is the generation a replica must be started from."""

    name: str
    description: str
    model_id: str
    pinned_node_id: str | None = None
    environment: Environment
    deployment_type: DeploymentType
    replicas: int
    hardware_profile: HardwareProfile
    engine: EngineName
    engine_args: list[str] = []
    environment_variables: dict[str, str] = {}
    image: str | None = None
    health_path: str | None = None
    port: int | None = None
    resources: Resources = Resources()
    node_selector: dict[str, str] = {}
    strategy: Strategy = Strategy()
    desired: Desired
    generation: int = 1
    revision: int = 1
    stop_force: bool = False
    stop_grace_seconds: int = 30
    deleting: bool = False


class Replica(BaseModel):
    """One engine on one node, as last seen. `crashloop_told` is the generation of which people know that it crashes.

    `gpu_share` is how many MiB of each of its devices it was given; None when it has them to itself.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    replica_id: str
    node_id: str
    state: ReplicaState = ReplicaState.PENDING
    generation: int
    revision: int
    gpu_device_ids: list[str] = []
    gpu_share: int | None = None
    container_name: str | None = None
    container_port: int | None = None
    endpoint: str | None = None
    health: str | None = None
    restarts: int = 0
    started_at: Timestamp | None = None
    message: str | None = None
    crashloop_told: int | None = None

    @property
    def active(self) -> bool:
        """Whether it may still hold its node's devices."""
        return self.state not in TERMINAL


class DeploymentState(TellingRecord):
    """What is seen. `active_nodes` and `settled` are there to be found by."""

    model_name: str = ""
    observed_generation: int = 0
    status: DeploymentStatus = DeploymentStatus.QUEUED
    status_reason: str | None = None
    waiting_reason: str | None = None
    replicas: list[Replica] = []
    events: list[DeploymentEvent] = []
    running_since: Timestamp | None = None
    uptime_before: float = 0.0
    last_health_check: Timestamp | None = None


class Usage(StoredRecord):
    """What the gateway counted; `flush_id` is the last flush that was added, so that none is added twice."""

    flush_id: str = ""
    total_inferences: int = 0
    latency_sum_ms: float = 0.0


def container_id(deployment_name: str, replica_id: str) -> str:
    """The name of a replica's container or process folder."""
    plain = "".join(each if each.isascii() and (each.isalnum() or each in "-_.") else "-" for each in deployment_name)[
        :40
    ]
    return f"aiwm-{plain}-{replica_id[-10:]}"


def deployment_view(wish: Wish, state: DeploymentState, usage: Usage, *, base_url: str, now: datetime) -> Deployment:
    """Wish, state and usage as one resource; `base_url` is the controller's public one."""
    first = state.replicas[0] if state.replicas else None
    uptime = state.uptime_before + (seconds_between(state.running_since, now) if state.running_since else 0.0)
    inferences = usage.total_inferences
    wished: tuple[str, ...] = (
        "name",
        "description",
        "model_id",
        "pinned_node_id",
        "environment",
        "deployment_type",
        "replicas",
    )
    wished += ("hardware_profile", "engine", "engine_args", "environment_variables", "image", "resources")
    wished += ("port", "node_selector", "strategy", "desired", "generation")
    seen = ("status", "status_reason", "observed_generation", "events", "last_health_check")
    return Deployment.model_validate(
        {
            **wish.base(),
            **{name: getattr(wish, name) for name in wished},
            **{name: getattr(state, name) for name in seen},
            "deployment_id": wish.id,
            "health_path": wish.health_path or ("/" if wish.engine is EngineName.CUSTOM else None),
            "node_id": first.node_id if first else None,
            "is_running": state.status is DeploymentStatus.RUNNING,
            "container_name": first.container_name if first else None,
            "container_port": first.container_port if first else None,
            "endpoint": f"{base_url}/api/v1/deployments/{wish.id}/inference",
            "total_inferences": inferences,
            "average_latency": round(usage.latency_sum_ms / inferences, 3) if inferences else None,
            "uptime": round(uptime, 3),
            "replica_status": [replica_view(replica) for replica in state.replicas],
        }
    )


def replica_view(replica: Replica) -> ReplicaStatus:
    """A replica as users see it."""
    return ReplicaStatus.model_validate(
        replica.model_dump(exclude={"generation", "revision", "gpu_share", "crashloop_told"})
    )


def replica_detail(replica: Replica, usage: ReplicaUsage | None) -> ReplicaDetail:
    """The same with what it uses and what its engine counts."""
    load = None if usage is None else {name: getattr(usage, name) for name in ReplicaLoad.model_fields}
    engine = None if usage is None or usage.engine is None else engine_load(usage.engine)
    return ReplicaDetail.model_validate({**dict(replica_view(replica)), "usage": load, "engine": engine})


def engine_load(numbers: EngineNumbers) -> EngineLoad:
    """What an engine counts, with means in place of sums."""
    means = {
        "first_token_seconds": _mean(numbers.first_token_seconds, numbers.first_token_count),
        "request_seconds": _mean(numbers.request_seconds, numbers.request_count),
    }
    return EngineLoad.model_validate({name: getattr(numbers, name) for name in EngineLoad.model_fields} | means)


def _mean(total: float | None, count: int | None) -> float | None:
    return round(total / count, 6) if total is not None and count else None
