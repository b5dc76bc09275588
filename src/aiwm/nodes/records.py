"""What is stored of a node: what users set, and, apart from it, what the node itself reports."""

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


class NodeRecord(OwnedRecord):
    """The wish: written by users alone. Tokens issued until `tokens_from` open nothing."""

    name: str
    role: list[NodeRole]
    labels: dict[str, str] = {}
    maintenance: bool = False
    schedulable: bool = True
    tokens_from: Timestamp | None = None


class NodeObservation(TellingRecord):
    """The observation: written by the channel alone. Sizes in MiB.

    `instance` is the run of the daemon that connected last, `superseded` are those it and its predecessors replaced;
    `cloned_at` is when one of these came back last, which only a copy of the node's identity does.
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
            "schedulable": record.schedulable and not record.maintenance,
            **{name: getattr(seen, name) for name in _SHOWN},
        }
    )
