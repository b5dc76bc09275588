"""Node: a GPU machine that dials out to the controller."""

from typing import Annotated, Literal

from pydantic import Field

from aiwm.protocol.base import Count, Label, Name, Params, Short, Text, Timestamp, View, Wire
from aiwm.protocol.resources.base import Metadata, Patch, Resource
from aiwm.protocol.states import NodeRole, NodeStatus

MiB = Annotated[int, Field(ge=0, le=2**48)]
Percent = Annotated[float, Field(ge=0, le=100)]
Labels = Annotated[dict[Label, Short], Field(max_length=64)]


class GpuDevice(Wire):
    """One GPU. Memory in MiB, utilization in percent, temperature in °C; null where the device does not say.

    `eccErrors` counts uncorrected memory errors since the driver was loaded; `xid` is the last Xid error the driver
    reported for it. `health` is `error` for a device that was there and no longer answers.
    """

    device_id: Annotated[str, Field(max_length=64)]
    model: Short | None = None
    memory_total: MiB | None = None
    memory_free: MiB | None = None
    memory_used: MiB | None = None
    utilization: Percent | None = None
    temperature: Annotated[float, Field(ge=-274, le=10_000)] | None = None
    uuid: Short | None = None
    driver_version: Short | None = None
    cuda_version: Short | None = None
    health: Literal["ok", "warning", "error"] | None = None
    ecc_errors: Count | None = None
    xid: Count | None = None


class ConditionReport(Wire):
    """What is so (or not) about a node, and why. `type` is a word like `DiskLow`; `reason` is for programs."""

    type: Short
    status: bool
    reason: Short
    message: Text


class Condition(ConditionReport):
    """The same as it is shown, with when it became so."""

    since: Timestamp


class OsFacts(Wire):
    name: Short | None = None
    version: Short | None = None
    kernel: Short | None = None
    architecture: Short | None = None


class ContainerRuntime(Wire):
    type: Short
    version: Short | None = None


class EngineFact(Wire):
    """An engine the node can start by itself, and its version."""

    name: Short
    version: Short | None = None


class Node(Resource):
    node_id: str
    name: str
    role: list[NodeRole]
    status: NodeStatus
    cpu_cores: int | None
    ram_total: int | None
    disk_total: int | None
    gpu_devices: list[GpuDevice]
    ip_address: str | None
    hostname: str | None
    last_heartbeat: Timestamp | None
    schedulable: bool
    maintenance: bool
    labels: dict[str, str]
    conditions: list[Condition]
    os: OsFacts | None
    cpu_model: str | None
    container_runtime: ContainerRuntime | None
    launchers: list[str]
    engines: list[EngineFact]
    daemon_version: str | None
    epoch: int
    connected_at: Timestamp | None
    ram_free: int | None
    disk_free: int | None
    uptime_seconds: float | None


class NodeCreate(Params):
    """`shared` gives it to all organizations; only universe roles may."""

    name: Name
    shared: bool = False
    role: Annotated[list[NodeRole], Field(min_length=1, max_length=3)] = [NodeRole.WORKER]
    labels: Labels = Field(default_factory=dict)
    maintenance: bool = False
    metadata: Metadata = Field(default_factory=dict)


class NodePatch(Patch):
    name: Name = ""
    role: Annotated[list[NodeRole], Field(min_length=1, max_length=3)] = []
    labels: Labels = Field(default_factory=dict)
    maintenance: bool = False
    metadata: Metadata = Field(default_factory=dict)


class NodeTokenRequest(Params):
    expires_in: Annotated[int, Field(ge=60, le=365 * 86_400)] = 30 * 86_400


class NodeToken(View):
    token: str
    expires_at: Timestamp
