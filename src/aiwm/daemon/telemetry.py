"""What this machine is and how it fares. A port: the simulated node brings its own."""

import asyncio
import logging
import platform
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psutil

from aiwm.daemon.floors import old_software
from aiwm.daemon.gpu import Gpus, Reading
from aiwm.daemon.launchers.port import Running
from aiwm.daemon.patience import Patience
from aiwm.daemon.processor import Processor
from aiwm.daemon.software import Survey
from aiwm.daemon.usage import Usage
from aiwm.protocol.node_channel import EngineNumbers, Metrics, NodeRegister, ReplicaUsage
from aiwm.protocol.resources.nodes import ConditionReport, OsFacts
from aiwm.protocol.states import Health

log = logging.getLogger(__name__)

_MIB = 2**20
LOW_DISK_MIB = 512
_DRIVER_SECONDS = 3.0


class Telemetry(Protocol):
    """Sizes in MiB. `facts`, `metrics` and `usage` read anew and may block for seconds where a driver hangs: call
    them in a thread. The others tell of the last reading and are at hand at once."""

    def facts(self) -> NodeRegister:
        """Hardware and software; what runs on it is added by the daemon."""
        ...

    def metrics(self) -> Metrics:
        """What changes all the time."""
        ...

    def usage(self, engines: Mapping[str, Running]) -> list[ReplicaUsage]:
        """What replicas use, by id; those whose engine is gone have none."""
        ...

    async def read(self, engines: Mapping[str, Running]) -> Metrics:
        """`metrics` with the `usage` of `engines`, without holding up the event loop."""
        ...

    def conditions(self) -> list[ConditionReport]:
        """What somebody should know of this machine; nothing when all is well."""
        ...

    def gpu_ids(self) -> set[str]:
        """The GPUs that commands may name: those that answered."""
        ...

    def cuda_name(self, device_id: str) -> str:
        """What an engine must call a GPU to get that one."""
        ...

    def gpu_memory(self, name: str) -> int | None:
        """How much memory a GPU has in all, by the name that engines use."""
        ...

    def uptime(self) -> float:
        """Seconds since the machine was started."""
        ...


def judge_health(metrics: Metrics) -> Health:
    """Degraded: it works, but somebody should look (a lost GPU, a disk that is nearly full)."""
    lost = any(gpu.health == "error" for gpu in metrics.gpu_devices or [])
    low = metrics.disk_free is not None and metrics.disk_free < LOW_DISK_MIB
    return Health.DEGRADED if lost or low else Health.HEALTHY


def with_engines(metrics: Metrics, numbers: Mapping[str, EngineNumbers]) -> Metrics:
    """`metrics` with what each replica's engine counts."""
    replicas = [usage.model_copy(update={"engine": numbers.get(usage.replica_id)}) for usage in metrics.replicas or []]
    return metrics.model_copy(update={"replicas": replicas})


class SystemTelemetry:
    """This machine, through psutil and NVML. `data_dir` is on the disk that counts, `own` is the daemon's folder."""

    def __init__(self, data_dir: Path, own: Path, controller: str, survey: Survey | None = None) -> None:
        self._data_dir, self._controller = data_dir, controller
        self._gpus = Patience(Gpus(own / "gpus.json").read, Reading(), seconds=_DRIVER_SECONDS)
        self._survey = survey or Survey()
        self._usage = Usage()
        self._reading, self._hung = Reading(), 0.0
        self._disk_free: int | None = None
        self._cpu_model = _cpu_model()
        self._processor = Processor()

    def facts(self) -> NodeRegister:
        memory, disk = psutil.virtual_memory(), _disk(self._data_dir)
        self._look()
        return NodeRegister(
            hostname=socket.gethostname(),
            ip_address=source_address(self._controller),
            cpu_cores=psutil.cpu_count(),
            cpu_model=self._cpu_model,
            ram_total=memory.total // _MIB,
            ram_free=memory.available // _MIB,
            disk_total=None if disk is None else disk[0],
            disk_free=None if disk is None else disk[1],
            gpu_devices=self._reading.devices,
            os=_os(),
            container_runtime=self._survey.software().runtime,
            uptime_seconds=self.uptime(),
        )

    def metrics(self) -> Metrics:
        self._look()
        return Metrics(
            gpu_devices=self._reading.devices,
            cpu_utilization=self._processor.percent(),
            ram_free=psutil.virtual_memory().available // _MIB,
            disk_free=self._disk_free,
        )

    def usage(self, engines: Mapping[str, Running]) -> list[ReplicaUsage]:
        return self._usage.read(engines, self._reading.memory)

    async def read(self, engines: Mapping[str, Running]) -> Metrics:
        def both() -> Metrics:
            return self.metrics().model_copy(update={"replicas": self.usage(engines)})

        return await asyncio.to_thread(both)

    def conditions(self) -> list[ConditionReport]:
        found = old_software(self._survey.found.versions())
        if self._hung:
            silent = f"NVIDIA's driver has not answered for {self._hung:.0f} s"
            found.append(_broken(f"cannot see the GPUs: {silent}; see `dmesg`, then restart the machine"))
        elif self._reading.broken is not None:
            found.append(_broken(self._reading.broken))
        if self._disk_free is not None and self._disk_free < LOW_DISK_MIB:
            found.append(_full(self._data_dir, self._disk_free))
        return found

    def gpu_ids(self) -> set[str]:
        return {gpu.device_id for gpu in self._reading.devices if gpu.health != "error"}

    def cuda_name(self, device_id: str) -> str:
        return self._reading.cuda_names.get(device_id, device_id)

    def gpu_memory(self, name: str) -> int | None:
        found = (gpu.memory_total for gpu in self._reading.devices if name in (gpu.device_id, gpu.uuid))
        return next(found, None)

    def uptime(self) -> float:
        return max(0.0, round(time.time() - psutil.boot_time(), 3))

    def _look(self) -> None:
        self._reading, hung = self._gpus.ask()
        if hung and not self._hung:
            log.warning("NVIDIA's driver does not answer; what it said before is used")
        self._hung = hung
        disk = _disk(self._data_dir)
        self._disk_free = None if disk is None else disk[1]


def _broken(message: str) -> ConditionReport:
    return ConditionReport(type="DriverBroken", status=True, reason="NvidiaDriver", message=message[:4096])


def _full(folder: Path, free: int) -> ConditionReport:
    message = (
        f"the disk of the data folder {folder} has {free} MiB left, less than {LOW_DISK_MIB}; "
        "free some space, or models and engines' logs cannot be written"
    )
    return ConditionReport(type="DiskFull", status=True, reason="LowSpace", message=message)


def _disk(folder: Path) -> tuple[int, int] | None:
    """Total and free MiB; None while its disk is not there."""
    try:
        disk = psutil.disk_usage(str(folder))
    except OSError:
        return None
    return disk.total // _MIB, disk.free // _MIB


def source_address(url: str) -> str | None:
    """This machine's address on its way to `url`; asked of the routing table, nothing is sent."""
    parts = urlsplit(url)
    try:
        family, kind, _, _, target = socket.getaddrinfo(
            parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            address: str = probe.getsockname()[0]
    except OSError:
        return None
    return address


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names[0] if names else platform.processor()) or None


def _os() -> OsFacts:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {"NAME": platform.system()}
    return OsFacts(
        name=release.get("NAME"),
        version=release.get("VERSION_ID"),
        kernel=platform.release(),
        architecture=platform.machine(),
    )
