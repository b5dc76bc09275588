"""What is stored of a node: what users set, and, apart from it, what the node itself reports."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from aiwm.infra.store.outbox import TellingRecord
from aiwm.infra.store.records import OwnedRecord
from aiwm.protocol.base import Timestamp
from aiwm.protocol.resources.nodes import (
    Condition,
    ContainerRuntime,
    EngineFact,
    GpuDevice,
    Node,
    OsFacts,
)
from aiwm.protocol.states import Health, NodeRole, NodeStatus

NODES = "nodes"
OBSERVATIONS = "nodeObservations"

GPU_LOST = "GPULost"


class NodeRecord(OwnedRecord):
    """The wish: written by users alone. Tokens issued until `tokens_from` open nothing.

    `join_key` is the SHA-256 of the key that a machine showed when it made this node by a join token.
    """

    name: str
    role: list[NodeRole]
    labels: dict[str, str] = {}
    maintenance: bool = False
    schedulable: bool = True
    tokens_from: Timestamp | None = None
    join_key: str | None = None


class AlertMark(BaseModel):
    """What people were told last of a condition: that it is so (of which devices) or over, and when."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    status: bool
    at: Timestamp
    devices: list[str] = []


class NodeObservation(TellingRecord):
    """The observation: written by the channel alone. Sizes in MiB.

    `instance` is the run of the daemon that connected last, `superseded` are those it and its predecessors replaced;
    `cloned_at` is when one of these came back last, which only a copy of the node's identity does.
    `clock_skew` is how many seconds the node's clock was ahead at its last heartbeat, `skewed_beats` how many of them
    in a row it was too far off. By the condition's type, `condition_devices` are the GPUs it is about, and `alerted`
    what was told of it.
    """

    status: NodeStatus = NodeStatus.OFFLINE
    health: Health = Health.HEALTHY
    epoch: int = 0
    instance: str | None = None
    superseded: list[str] = []
    cloned_at: Timestamp | None = None
    offline_since: Timestamp | None = None
    connected_at: Timestamp | None = None
    last_heartbeat: Timestamp | None = None
    clock_skew: float | None = None
    skewed_beats: int = 0
    uptime_seconds: float | None = None
    hostname: str | None = None
    ip_address: str | None = None
    cpu_cores: int | None = None
    cpu_model: str | None = None
    cpu_utilization: float | None = None
    ram_total: int | None = None
    ram_free: int | None = None
    disk_total: int | None = None
    disk_free: int | None = None
    gpu_devices: list[GpuDevice] = []
    os: OsFacts | None = None
    container_runtime: ContainerRuntime | None = None
    launchers: list[str] = []
    engines: list[EngineFact] = []
    daemon_version: str | None = None
    advertise_host: str | None = None
    machine: str | None = None
    conditions: list[Condition] = []
    condition_devices: dict[str, list[str]] = {}
    alerted: dict[str, AlertMark] = {}

    @property
    def fault(self) -> str | None:
        """Why nothing new is placed here, whatever its user wishes: a GPU that is lost."""
        return next((each.message for each in self.conditions if each.status and each.type == GPU_LOST), None)


_SHOWN = (
    "status",
    "epoch",
    "connected_at",
    "last_heartbeat",
    "uptime_seconds",
    "hostname",
    "ip_address",
    "cpu_cores",
    "cpu_model",
    "ram_total",
    "ram_free",
    "disk_total",
    "disk_free",
    "gpu_devices",
    "os",
    "container_runtime",
    "launchers",
    "engines",
    "daemon_version",
    "conditions",
)


def node_view(record: NodeRecord, seen: NodeObservation) -> Node:
    """Wish and observation as one resource."""
    return Node.model_validate(
        {
            **record.base(),
            "node_id": record.id,
            "name": record.name,
            "role": record.role,
            "labels": record.labels,
            "maintenance": record.maintenance,
            "schedulable": record.schedulable and not record.maintenance and seen.fault is None,
            **{name: getattr(seen, name) for name in _SHOWN},
        }
    )
