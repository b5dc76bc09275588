"""The two things that make a node a simulated one: where its telemetry comes from, and (`fake`) what runs its engines.

Everything else of a simulated node is the daemon as it is; `tests/unit/testing` holds that.
"""

import random
import time
from collections.abc import Mapping
from datetime import datetime, timedelta

from aiwm.daemon.launchers.port import Running
from aiwm.kit.clock import SystemClock
from aiwm.protocol.node_channel import Metrics, NodeRegister, ReplicaUsage
from aiwm.protocol.resources.nodes import ConditionReport, GpuDevice, OsFacts

_GPU_MODEL, _GPU_MIB = "Simulated GPU 80GB", 81_920
_RAM_MIB, _DISK_MIB, _CORES = 1_048_576, 7_340_032, 128
_IDLE_CELSIUS, _CELSIUS_PER_PERCENT = 34.0, 0.4
_STEP = 6.0
# No machine is so busy that somebody is told of it.
_LEAST, _MOST = 2.0, 92.0
_ENGINE_MIB = 2048
# A full GPU would be a condition of its node, and news.
_MEMORY_SHARE = 0.9


class SimulatedTelemetry:
    """A machine with `gpus` GPUs whose load wanders; nothing is asked of any device, so nothing blocks."""

    def __init__(self, name: str, gpus: int, rng: random.Random) -> None:
        self._name, self._rng = name, rng
        self._load = [rng.uniform(10, 90) for _ in range(gpus)]
        self._started = time.monotonic() - rng.uniform(0, 30 * 86_400)
        self._address = ".".join(str(part) for part in (10, *(rng.randrange(1, 255) for _ in range(3))))

    def facts(self) -> NodeRegister:
        now = self.metrics()
        return NodeRegister(
            hostname=self._name,
            ip_address=self._address,
            cpu_cores=_CORES,
            cpu_model="Simulated CPU",
            ram_total=_RAM_MIB,
            ram_free=now.ram_free,
            disk_total=_DISK_MIB,
            disk_free=now.disk_free,
            gpu_devices=now.gpu_devices,
            os=OsFacts(name="Simulated Linux", version="1", architecture="x86_64"),
            uptime_seconds=self.uptime(),
        )

    def metrics(self) -> Metrics:
        self._load = [min(_MOST, max(_LEAST, each + self._rng.uniform(-_STEP, _STEP))) for each in self._load]
        busy = sum(self._load) / len(self._load) if self._load else 10.0
        return Metrics(
            gpu_devices=[self._device(index, load) for index, load in enumerate(self._load)],
            cpu_utilization=round(busy / 2, 1),
            ram_free=_RAM_MIB - int(busy * 4096),
            disk_free=_DISK_MIB // 2,
        )

    async def read(self, engines: Mapping[str, Running]) -> Metrics:
        return self.metrics().model_copy(update={"replicas": self.usage(engines)})

    def usage(self, engines: Mapping[str, Running]) -> list[ReplicaUsage]:
        return [ReplicaUsage(replica_id=each, cpu_utilization=50.0, ram_used=_ENGINE_MIB) for each in engines]

    def conditions(self) -> list[ConditionReport]:
        return []

    def cuda_name(self, device_id: str) -> str:
        return device_id

    def gpu_ids(self) -> set[str]:
        return {str(index) for index in range(len(self._load))}

    def gpu_memory(self, name: str) -> int | None:  # noqa: ARG002 - all of its GPUs are alike
        return _GPU_MIB

    def uptime(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _device(self, index: int, load: float) -> GpuDevice:
        used = int(_GPU_MIB * load * _MEMORY_SHARE / 100)
        return GpuDevice(
            device_id=str(index),
            model=_GPU_MODEL,
            memory_total=_GPU_MIB,
            memory_used=used,
            memory_free=_GPU_MIB - used,
            utilization=round(load, 1),
            temperature=round(_IDLE_CELSIUS + load * _CELSIUS_PER_PERCENT, 1),
            uuid=f"GPU-{self._name}-{index}",
            driver_version="580.0",
            cuda_version="13.0",
            health="ok",
        )


class SkewedClock(SystemClock):
    """A clock that is wrong by `seconds`; how fast it goes is right."""

    def __init__(self, seconds: float) -> None:
        self._off = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self._off
