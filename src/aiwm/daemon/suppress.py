"""Which metrics are worth a message: those that say something new since what was last sent, and one a minute. Pure."""

from collections.abc import Iterable, Sequence

from aiwm.protocol.node_channel import Metrics, ReplicaUsage
from aiwm.protocol.resources.nodes import GpuDevice

AT_LEAST_EVERY_SECONDS = 60.0

_UTILIZATION = 2.0
_TEMPERATURE = 1.0
_CPU = 5.0
_GPU_MEMORY_MIB = 64.0
_MEMORY_MIB = 256.0
_SHARE = 0.01


class Suppression:
    """Remembers what was sent last. `begin` when a new connection knows nothing yet."""

    def __init__(self) -> None:
        self._sent: tuple[Metrics, float] | None = None

    def begin(self) -> None:
        """The next metrics go out whatever they say."""
        self._sent = None

    def due(self, metrics: Metrics, now: float) -> bool:
        """`now` in seconds of a clock that never goes back."""
        if self._sent is None:
            return True
        last, at = self._sent
        return now - at >= AT_LEAST_EVERY_SECONDS or differs(last, metrics)

    def sent(self, metrics: Metrics, now: float) -> None:
        """`metrics` reached the controller."""
        self._sent = (metrics, now)


def differs(sent: Metrics, now: Metrics) -> bool:
    """Whether anything moved by as much as somebody would want to see."""
    return (
        _moved(sent.cpu_utilization, now.cpu_utilization, _CPU)
        or _grew(sent.ram_free, now.ram_free, _MEMORY_MIB)
        or _grew(sent.disk_free, now.disk_free, _MEMORY_MIB)
        or _any_gpu(sent.gpu_devices, now.gpu_devices)
        or _any_replica(sent.replicas, now.replicas)
    )


def _any_gpu(sent: Sequence[GpuDevice] | None, now: Sequence[GpuDevice] | None) -> bool:
    before, after = ({gpu.device_id: gpu for gpu in each or []} for each in (sent, now))
    return before.keys() != after.keys() or any(_gpu(before[name], after[name]) for name in after)


def _gpu(sent: GpuDevice, now: GpuDevice) -> bool:
    exact = ("uuid", "health", "ecc_errors", "xid", "model", "driver_version", "cuda_version", "memory_total")
    return (
        any(getattr(sent, name) != getattr(now, name) for name in exact)
        or _moved(sent.utilization, now.utilization, _UTILIZATION)
        or _moved(sent.temperature, now.temperature, _TEMPERATURE)
        or _grew(sent.memory_used, now.memory_used, _GPU_MEMORY_MIB)
        or _grew(sent.memory_free, now.memory_free, _GPU_MEMORY_MIB)
    )


def _any_replica(sent: Iterable[ReplicaUsage] | None, now: Iterable[ReplicaUsage] | None) -> bool:
    before, after = ({each.replica_id: each for each in usage or []} for usage in (sent, now))
    return before.keys() != after.keys() or any(_replica(before[name], after[name]) for name in after)


def _replica(sent: ReplicaUsage, now: ReplicaUsage) -> bool:
    return (
        _moved(sent.cpu_utilization, now.cpu_utilization, _CPU)
        or _grew(sent.ram_used, now.ram_used, _MEMORY_MIB)
        or _grew(sent.gpu_memory_used, now.gpu_memory_used, _GPU_MEMORY_MIB)
        or sent.engine != now.engine
    )


def _moved(sent: float | None, now: float | None, threshold: float) -> bool:
    """By `threshold` or more; from or to "not known" is always a move."""
    if sent is None or now is None:
        return sent is not now
    return abs(now - sent) >= threshold


def _grew(sent: float | None, now: float | None, mib: float) -> bool:
    """By a hundredth of what was sent, or by `mib` if that is less; either way."""
    return _moved(sent, now, mib if sent is None else min(mib, max(sent * _SHARE, 1.0)))
