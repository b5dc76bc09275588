"""Deployment: the wish that a model serves, and what is seen of it."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from aiwm.protocol.base import Id, Name, Params, Text, Timestamp, View, Wire
from aiwm.protocol.resources.base import Metadata, Patch, Resource
from aiwm.protocol.resources.nodes import Labels
from aiwm.protocol.states import (
    DeploymentStatus,
    DeploymentType,
    Desired,
    EngineName,
    Environment,
    EventSeverity,
    HardwareProfile,
    ReplicaState,
)

MAX_REPLICAS = 100

EngineArgs = Annotated[list[Annotated[str, StringConstraints(max_length=1024)]], Field(max_length=128)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
EnvironmentVariables = Annotated[dict[VariableName, Text], Field(max_length=128)]
Replicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS)]
HealthPath = Annotated[str, StringConstraints(max_length=256, pattern=r"^/[A-Za-z0-9._~/?=&%-]*$")]
Port = Annotated[int, Field(ge=1, le=65_535)]
Image = Annotated[str, StringConstraints(max_length=512, pattern=r"^[\w][\w.:/@-]*$")]


def served_name(deployment_name: str) -> str:
    """The name under which an engine serves a deployment: its own, with what file systems and URLs dislike replaced."""
    plain = "".join(each if each.isascii() and (each.isalnum() or each in "-_.") else "_" for each in deployment_name)
    return f"_{plain[1:]}" if plain.startswith(".") else plain


class Resources(Wire):
    """What one replica needs. Memory in MiB, CPU in cores.

    `gpuMemory` is how much it takes of each of its GPUs, beside others; without it, its GPUs are its alone.
    """

    gpu_count: Annotated[int, Field(ge=0, le=64)] | None = None
    gpu_memory: Annotated[int, Field(ge=0, le=2**40)] | None = None
    cpu_cores: Annotated[float, Field(gt=0, le=4096)] | None = None
    ram: Annotated[int, Field(ge=0, le=2**40)] | None = None


class ResourcesParams(Resources, Params):
    """The same, from a user: unknown fields are refused."""


class Strategy(Params):
    max_surge: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 1
    max_unavailable: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 0


class DeploymentEvent(View):
    """One line of a deployment's story."""

    timestamp: Timestamp
    event: str
    message: str
    severity: EventSeverity


class ReplicaStatus(View):
    replica_id: str
    node_id: str | None
    state: ReplicaState
    gpu_device_ids: list[str]
    container_name: str | None
    container_port: int | None
    endpoint: str | None
    health: str | None
    restarts: int
    started_at: Timestamp | None
    message: str | None


class ReplicaLoad(View):
    """What a replica uses: processor time in percent of one core, memory in MiB; null where its node does not say."""

    cpu_utilization: float | None
    ram_used: int | None
    gpu_memory_used: int | None


class EngineLoad(View):
    """What a replica's engine counts; null for what it does not tell.

    Since its start: `requests` answered, `failures` among them, tokens read and written, the mean seconds to a first
    token and of a request. Now: requests `running` and `queued`, and how much of its cache is used, in percent.
    """

    requests: int | None
    failures: int | None
    prompt_tokens: int | None
    generated_tokens: int | None
    running: int | None
    queued: int | None
    cache_used: float | None
    first_token_seconds: float | None
    request_seconds: float | None


class ReplicaDetail(ReplicaStatus):
    """A replica with what it uses now and what its engine counts, null while that is not known."""

    usage: ReplicaLoad | None = None
    engine: EngineLoad | None = None


class Deployment(Resource):
    deployment_id: str
    name: str
    description: str
    model_id: str
    node_id: str | None
    pinned_node_id: str | None
    environment: Environment
    deployment_type: DeploymentType
    replicas: int
    hardware_profile: HardwareProfile
    status: DeploymentStatus
    status_reason: str | None
    is_running: bool
    container_name: str | None
    container_port: int | None
    endpoint: str
    total_inferences: int
    average_latency: float | None
    uptime: float
    last_health_check: Timestamp | None
    events: list[DeploymentEvent]
    desired: Desired
    generation: int
    observed_generation: int
    engine: EngineName
    engine_args: list[str]
    environment_variables: dict[str, str]
    image: str | None
    health_path: str | None
    port: int | None
    resources: Resources
    node_selector: dict[str, str]
    strategy: Strategy
    replica_status: list[ReplicaStatus]


class DeploymentCreate(Params):
    """`healthPath` (where a 200 says that it serves) and `port` (the image's own) are a custom engine's alone."""

    name: Name
    model_id: Id
    description: Text = ""
    node_id: Id | None = None
    environment: Environment = Environment.DEV
    deployment_type: DeploymentType = DeploymentType.SINGLE
    replicas: Replicas = 1
    hardware_profile: HardwareProfile | None = None
    engine: EngineName | None = None
    engine_args: EngineArgs = Field(default_factory=list)
    environment_variables: EnvironmentVariables = Field(default_factory=dict)
    image: Image | None = None
    health_path: HealthPath | None = None
    port: Port | None = None
    resources: ResourcesParams = Field(default_factory=ResourcesParams)
    node_selector: Labels = Field(default_factory=dict)
    strategy: Strategy = Field(default_factory=Strategy)
    desired: Desired = Desired.RUNNING
    metadata: Metadata = Field(default_factory=dict)


class DeploymentPatch(Patch):
    name: Name = ""
    description: Text = ""
    environment: Environment = Environment.DEV
    replicas: Replicas = 1
    engine_args: EngineArgs = Field(default_factory=list)
    environment_variables: EnvironmentVariables = Field(default_factory=dict)
    image: Image | None = None
    health_path: HealthPath | None = None
    port: Port | None = None
    resources: ResourcesParams = Field(default_factory=ResourcesParams)
    node_selector: Labels = Field(default_factory=dict)
    strategy: Strategy = Field(default_factory=Strategy)
    desired: Desired = Desired.RUNNING
    metadata: Metadata = Field(default_factory=dict)


class StopRequest(Params):
    force: bool = False
    timeout_seconds: Annotated[int, Field(ge=0, le=3600)] = 30


class ScaleRequest(Params):
    replicas: Replicas


class PlacementRejection(View):
    """Why a node was not chosen."""

    node_id: str
    name: str
    reason: str


class PlannedReplica(View):
    node_id: str
    gpu_device_ids: list[str]
    reason: str


class DeploymentPlan(View):
    """What would happen: where replicas would go, and why the other nodes would not take them."""

    verdict: Literal["placed", "unplaceable"]
    reason: str | None
    engine: EngineName
    hardware_profile: HardwareProfile
    placements: list[PlannedReplica]
    rejected: list[PlacementRejection]
