"""How a node's observation changes with what it reports and with its connection: pure."""

from datetime import datetime
from typing import Protocol

from aiwm.nodes.identity import claimed
from aiwm.nodes.records import NodeObservation
from aiwm.protocol.node_channel import Heartbeat, Metrics, NodeRegister
from aiwm.protocol.resources.nodes import GpuDevice
from aiwm.protocol.states import Health, NodeStatus

_MEASURED = ("cpu_utilization", "ram_free", "disk_free")
_MOST_GPUS = 256
_OF_THE_MOMENT = ("memory_free", "memory_used", "utilization", "temperature")
_NOT_KEPT = ("replicas", "machine", "advertise_host", "instance", "conditions")
_FROM_REGISTER = tuple(name for name in NodeRegister.model_fields if name not in _NOT_KEPT)


def connected(seen: NodeObservation, *, instance: str | None, at: datetime) -> NodeObservation:
    """A new connection opens the next epoch; the node is online once it has registered."""
    return claimed(seen, instance, at=at).model_copy(update={"epoch": seen.epoch + 1, "connected_at": at})


def registered(seen: NodeObservation, report: NodeRegister, *, at: datetime) -> NodeObservation:
    """What the node says of itself replaces what it names and keeps the rest."""
    named = {name: getattr(report, name) for name in _FROM_REGISTER if getattr(report, name) is not None}
    if report.gpu_devices is not None:
        named["gpu_devices"] = [_with_free_memory(gpu, None) for gpu in report.gpu_devices]
    status = NodeStatus.ERROR if seen.health is Health.ERROR else NodeStatus.ONLINE
    named.update(advertise_host=report.advertise_host, machine=report.machine, offline_since=None)
    return seen.model_copy(update={**named, "status": status, "last_heartbeat": at})


def beat(seen: NodeObservation, report: Heartbeat, *, at: datetime) -> NodeObservation:
    """A heartbeat's health decides between `online` and `error`."""
    changes: dict[str, object] = {
        "last_heartbeat": at,
        "health": report.status,
        "status": NodeStatus.ERROR if report.status is Health.ERROR else NodeStatus.ONLINE,
    }
    if report.uptime_seconds is not None:
        changes["uptime_seconds"] = report.uptime_seconds
    return seen.model_copy(update=changes)


def measured(seen: NodeObservation, report: Metrics) -> NodeObservation:
    """Metrics update the devices and sizes they name and keep the others."""
    changes: dict[str, object] = {name: value for name in _MEASURED if (value := getattr(report, name)) is not None}
    if report.gpu_devices is not None:
        changes["gpu_devices"] = _merged(seen.gpu_devices, report.gpu_devices)
    return seen.model_copy(update=changes) if changes else seen


def gone(seen: NodeObservation, *, epoch: int, at: datetime) -> NodeObservation:
    """The connection of `epoch` ended; a newer connection's node stays as it is."""
    if seen.epoch != epoch or seen.status is NodeStatus.OFFLINE:
        return seen
    return seen.model_copy(update={"status": NodeStatus.OFFLINE, "connected_at": None, "offline_since": at})


def missing(seen: NodeObservation, *, at: datetime) -> NodeObservation:
    """Whatever its epoch, the node has no connection."""
    return gone(seen, epoch=seen.epoch, at=at)


class Reachable(Protocol):
    """What a node said of how its engines are reached."""

    advertise_host: str | None
    machine: str | None


def dial_host(seen: Reachable, *, own_machine: str | None) -> str | None:
    """Where the gateway may dial this node's engines: what its operator advertises, or loopback on the same machine."""
    if seen.advertise_host:
        return seen.advertise_host
    return "127.0.0.1" if own_machine is not None and seen.machine == own_machine else None


def _merged(known: list[GpuDevice], reported: list[GpuDevice]) -> list[GpuDevice]:
    by_id = {gpu.device_id: gpu for gpu in known}
    for gpu in reported:
        by_id[gpu.device_id] = _with_free_memory(gpu, by_id.get(gpu.device_id))
    return list(by_id.values())[:_MOST_GPUS]


def _with_free_memory(gpu: GpuDevice, known: GpuDevice | None) -> GpuDevice:
    if known is not None and gpu.health == "error":
        # What it measured when it still answered is not how it is.
        known = known.model_copy(update=dict.fromkeys(_OF_THE_MOMENT))
    merged, total, used = gpu, gpu.memory_total, gpu.memory_used
    # A device that says all that is known of it, as most do each time, is not copied: fleets send thousands a second.
    if known is not None and any(value is None and getattr(known, name) is not None for name, value in gpu):
        merged = known.model_copy(update={name: value for name, value in gpu if value is not None})
        total = merged.memory_total
    if used is not None and gpu.memory_free is None and total is not None:
        return merged.model_copy(update={"memory_free": max(total - used, 0)})
    return merged
