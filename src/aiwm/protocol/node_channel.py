"""The node channel: every message between the controller and a node's daemon, on Socket.IO namespace `/ws/node`."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, StringConstraints

from aiwm.kit.clock import iso
from aiwm.kit.ids import new_id
from aiwm.protocol.base import Count, Id, Short, Text, Timestamp, Wire
from aiwm.protocol.resources.deployments import Resources
from aiwm.protocol.resources.models import RelativePath, Sha256
from aiwm.protocol.resources.nodes import (
    ConditionReport,
    ContainerRuntime,
    EngineFact,
    GpuDevice,
    MiB,
    OsFacts,
    Percent,
)
from aiwm.protocol.states import DeploymentStatus, EngineName, Health, ReplicaState

NAMESPACE = "/ws/node"
PING_INTERVAL_SECONDS = 3
PING_TIMEOUT_SECONDS = 3
HEARTBEAT_INTERVAL_MS = 30_000
METRICS_INTERVAL_MS = 10_000
ACK_TIMEOUT_SECONDS = 5
MAX_MESSAGE_BYTES = 1_000_000

COMMAND_DEPLOY = "command.deploy"
COMMAND_STOP = "command.stop"
COMMAND_HEALTH_CHECK = "command.healthCheck"
COMMAND_LOGS = "command.logs"
COMMAND_ACK = "command.ack"
COMMAND_RESULT = "command.result"
NODE_REGISTER = "node.register"
REGISTER_ACK = "register.ack"
CONNECTION_ACK = "connection.ack"
HEARTBEAT = "telemetry.heartbeat"
METRICS = "telemetry.metrics"
DEPLOYMENT_STATUS = "deployment.status"
DEPLOYMENT_LOGS = "deployment.logs"
MODEL_PROGRESS = "model.progress"
TOKEN_RENEWED = "token.renewed"  # noqa: S105 - an event's name
ERROR = "error"


class Metadata(Wire):
    correlation_id: Short | None = None
    epoch: int | None = None
    generation: int | None = None
    retry_count: int | None = None


class Envelope(Wire):
    """How every message travels; from a node, everything but `data` may be missing."""

    type: str
    message_id: Id
    timestamp: Timestamp
    data: dict[str, object] = Field(default_factory=dict)
    metadata: Metadata | None = None


def envelope(type_: str, data: Wire, *, now: datetime, metadata: Metadata | None = None) -> dict[str, object]:
    """A message ready to be emitted under its own type as the event's name."""
    message: dict[str, object] = {
        "type": type_,
        "messageId": new_id("msg"),
        "timestamp": iso(now),
        "data": data.to_wire(),
    }
    if metadata is not None:
        message["metadata"] = metadata.to_wire()
    return message


class ConnectionAck(Wire):
    """`connection.ack`: fields at top level, sent exactly once after a connect was accepted."""

    status: Literal["connected"] = "connected"
    timestamp: Timestamp
    node_id: str
    controller_id: str
    server_version: str


class ReplicaReport(Wire):
    """One replica as its daemon sees it, in `node.register` and in the daemon's own ledger."""

    deployment_id: Id
    replica_id: Id
    generation: Count = 0
    state: ReplicaState
    endpoint: Short | None = None
    container_name: Short | None = None
    container_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    gpu_device_ids: Annotated[list[Short], Field(max_length=64)] = Field(default_factory=list)
    health: Short | None = None
    restarts: Count = 0
    started_at: Timestamp | None = None
    message: Text | None = None


Seconds = Annotated[float, Field(ge=0, le=2**53)]
Conditions = Annotated[list[ConditionReport], Field(max_length=64)]


class NodeRegister(Wire):
    """`node.register`: hardware, software, and everything the node runs now. Sizes in MiB.

    `machine` is the daemon's `machine_mark`: a controller with the same one may dial the engines on loopback.
    `instance` names this run of the daemon, as in the connect's `auth`; `conditions` are all that the daemon judges
    itself.
    """

    hostname: Short | None = None
    ip_address: Short | None = None
    cpu_cores: Annotated[int, Field(ge=0, le=65_536)] | None = None
    cpu_model: Short | None = None
    ram_total: MiB | None = None
    ram_free: MiB | None = None
    disk_total: MiB | None = None
    disk_free: MiB | None = None
    gpu_devices: Annotated[list[GpuDevice], Field(max_length=256)] | None = None
    os: OsFacts | None = None
    container_runtime: ContainerRuntime | None = None
    launchers: Annotated[list[Short], Field(max_length=16)] | None = None
    engines: Annotated[list[EngineFact], Field(max_length=64)] | None = None
    daemon_version: Short | None = None
    uptime_seconds: Annotated[float, Field(ge=0)] | None = None
    advertise_host: Short | None = None
    machine: Short | None = None
    instance: Short | None = None
    conditions: Conditions | None = None
    replicas: Annotated[list[ReplicaReport], Field(max_length=1024)] | None = None


class ControllerInfo(Wire):
    controller_id: str
    heartbeat_interval: int
    metrics_interval: int
    timezone: str = "UTC"


class RegisterAck(Wire):
    """Intervals in milliseconds; `pendingCommands` is always empty: the plan is made from what the node reports."""

    status: Literal["success"] = "success"
    node_id: str
    registered_at: Timestamp
    epoch: int
    controller_info: ControllerInfo
    pending_commands: list[dict[str, object]] = Field(default_factory=list)


class Heartbeat(Wire):
    timestamp: Timestamp | None = None
    status: Health = Health.HEALTHY
    uptime_seconds: Annotated[float, Field(ge=0)] | None = None
    conditions: Conditions | None = None


class EngineNumbers(Wire):
    """What an engine counts, under names common to all engines; None for what it does not tell.

    Since the engine's start: `requests` answered, `failures` among them, tokens read and written, `...Seconds` summed
    over `...Count` requests. Now: requests `running` and `queued`, and how much of its cache is used, in percent.
    """

    requests: Count | None = None
    failures: Count | None = None
    prompt_tokens: Count | None = None
    generated_tokens: Count | None = None
    running: Count | None = None
    queued: Count | None = None
    cache_used: Percent | None = None
    first_token_seconds: Seconds | None = None
    first_token_count: Count | None = None
    request_seconds: Seconds | None = None
    request_count: Count | None = None


class ReplicaUsage(Wire):
    """What one replica uses: processor time in percent of one core (so above 100 on several), memory in MiB."""

    replica_id: Id
    cpu_utilization: Annotated[float, Field(ge=0, le=10_000_000)] | None = None
    ram_used: MiB | None = None
    gpu_memory_used: MiB | None = None
    engine: EngineNumbers | None = None


class Metrics(Wire):
    """`telemetry.metrics`: what is named is updated, the rest is kept. `replicas` are all that run, when given."""

    gpu_devices: Annotated[list[GpuDevice], Field(max_length=256)] | None = None
    cpu_utilization: Percent | None = None
    ram_free: MiB | None = None
    disk_free: MiB | None = None
    replicas: Annotated[list[ReplicaUsage], Field(max_length=1024)] | None = None


LOG_LINES = 200


class DeploymentLogs(Wire):
    """`deployment.logs`: the last lines an engine wrote before it ended, sent once for each end.

    They stay readable at the controller when the node is gone. `restarts` tells the ends of one replica apart.
    """

    deployment_id: Id
    replica_id: Id
    generation: Count = 0
    restarts: Count = 0
    reason: Text | None = None
    lines: Annotated[list[Text], Field(max_length=LOG_LINES)]


class DeploymentStatusReport(Wire):
    """`deployment.status`; without `replicaId` it means the node's only replica of that deployment."""

    deployment_id: Id
    status: DeploymentStatus
    endpoint: Short | None = None
    replica_id: Id | None = None
    state: ReplicaState | None = None
    generation: Count | None = None
    message: Text | None = None
    health: Short | None = None
    container_name: Short | None = None
    container_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    gpu_device_ids: Annotated[list[Short], Field(max_length=64)] | None = None
    restarts: Count | None = None
    started_at: Timestamp | None = None


class ArtifactFile(Wire):
    """One file to fetch: the first of `urls` that answers serves it; size in bytes."""

    path: RelativePath
    size: Count
    sha256: Sha256
    urls: list[str] = Field(default_factory=list)


class Artifact(Wire):
    """A model's files, and a digest over them all that names the set in a cache."""

    model_id: Id
    digest: Sha256
    name: str
    framework: str
    task_type: str | None = None
    files: list[ArtifactFile]


class DeployCommand(Wire):
    """`command.deploy`. `gpuDeviceId` is `gpuDeviceIds` joined by commas, as the source has it.

    `healthPath` and `port`, the image's own, are a custom engine's.
    """

    deployment_id: Id
    replica_id: Id = Field(validation_alias=AliasChoices("replicaId", "replica_id"))
    model_id: Id
    container_id: Annotated[str, StringConstraints(max_length=128)]
    gpu_device_id: str = ""
    gpu_device_ids: list[str] = Field(default_factory=list)
    deployment_name: str
    engine: EngineName
    engine_args: list[str] = Field(default_factory=list)
    environment_variables: dict[str, str] = Field(default_factory=dict)
    image: str | None = None
    health_path: str | None = None
    port: int | None = None
    resources: Resources = Field(default_factory=Resources)
    artifact: Artifact
    generation: int


class StopCommand(Wire):
    """Without `replicaId`: everything of that deployment on this node."""

    deployment_id: Id
    replica_id: Id | None = None
    grace_seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    generation: int | None = None


class ModelProgress(Wire):
    """`model.progress`: how much of a model a node has fetched for a replica; sizes in bytes."""

    model_id: Id
    deployment_id: Id | None = None
    replica_id: Id | None = None
    bytes_done: Count
    bytes_total: Count | None = None
    files: Count = 0


class HealthCheckCommand(Wire):
    deployment_id: Id | None = None


class HealthCheckResult(Wire):
    """The node's health and that of its replicas."""

    status: Health
    replicas: list[ReplicaReport]


class LogsCommand(Wire):
    """Asks for a replica's last `tail` lines, or for what comes after byte `offset`."""

    deployment_id: Id
    replica_id: Id
    tail: Annotated[int, Field(ge=0, le=10_000)] = 100
    offset: Count | None = None


class LogsResult(Wire):
    """Log text from a byte offset; `nextOffset` is where the next request goes on."""

    text: str
    next_offset: int


class CommandAck(Wire):
    original_message_id: Id
    status: Literal["acknowledged"] = "acknowledged"


class CommandError(Wire):
    code: str
    message: Text
    retryable: bool = False


class CommandResult(Wire):
    original_message_id: Id
    status: Literal["success", "error"]
    result: dict[str, object] | None = None
    error: CommandError | None = None


class TokenRenewed(Wire):
    """`token.renewed`: the node dials in with this one from now on."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=8192)]
    expires_at: Timestamp


RefusalCode = Literal[
    "TOKEN_MISSING",
    "TOKEN_INVALID",
    "TOKEN_EXPIRED",
    "NODE_NOT_FOUND",
    "NODE_INACTIVE",
    "NODE_REPLACED",
    "ROLE_MISSING",
]


class ChannelError(Wire):
    """Answer to a message that cannot be read; with a refusal's code, why the connection ends now."""

    code: Literal["MESSAGE_INVALID", "MESSAGE_UNKNOWN"] | RefusalCode
    message: str
    original_message_id: str | None = None
