"""What this machine is and how it fares. A port: the simulated node brings its own."""

import asyncio
import platform
import socket
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psutil

from aiwm.daemon.gpu import Gpus
from aiwm.protocol.node_channel import Metrics, NodeRegister
from aiwm.protocol.resources.nodes import GpuDevice, OsFacts
from aiwm.protocol.states import Health

_MIB = 2**20
LOW_DISK_MIB = 512


class Telemetry(Protocol):
    """Sizes in MiB. Each call reads anew and may block for some milliseconds."""

    def facts(self) -> NodeRegister:
        """Hardware and software; what runs on it is added by the daemon."""
        ...

    def metrics(self) -> Metrics:
        """What changes all the time."""
        ...

    async def read(self) -> Metrics:
        """`metrics`, without holding up the event loop."""
        ...

    def gpu_ids(self) -> set[str]:
        """The GPUs that commands may name."""
        ...

    def uptime(self) -> float:
        """Seconds since the machine was started."""
        ...


def judge_health(metrics: Metrics) -> Health:
    """Degraded: it works, but somebody should look (a lost GPU, a disk that is nearly full)."""
    lost = any(gpu.health == "error" for gpu in metrics.gpu_devices or [])
    low = metrics.disk_free is not None and metrics.disk_free < LOW_DISK_MIB
    return Health.DEGRADED if lost or low else Health.HEALTHY


class SystemTelemetry:
    """This machine, through psutil and NVML. `data_dir` is on the disk that counts."""

    def __init__(self, data_dir: Path, controller: str) -> None:
        self._data_dir, self._controller = data_dir, controller
        self._gpus = Gpus()
        self._cpu_model = _cpu_model()
        # The first answer is always 0.
        psutil.cpu_percent()

    def facts(self) -> NodeRegister:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._data_dir))
        return NodeRegister(
            hostname=socket.gethostname(),
            ip_address=source_address(self._controller),
            cpu_cores=psutil.cpu_count(),
            cpu_model=self._cpu_model,
            ram_total=memory.total // _MIB,
            ram_free=memory.available // _MIB,
            disk_total=disk.total // _MIB,
            disk_free=disk.free // _MIB,
            gpu_devices=self._gpus.read(),
            os=_os(),
            uptime_seconds=self.uptime(),
        )

    def metrics(self) -> Metrics:
        devices: list[GpuDevice] = self._gpus.read()
        return Metrics(
            gpu_devices=devices,
            cpu_utilization=min(100.0, psutil.cpu_percent()),
            ram_free=psutil.virtual_memory().available // _MIB,
            disk_free=psutil.disk_usage(str(self._data_dir)).free // _MIB,
        )

    async def read(self) -> Metrics:
        return await asyncio.to_thread(self.metrics)

    def gpu_ids(self) -> set[str]:
        return {gpu.device_id for gpu in self._gpus.read()}

    def uptime(self) -> float:
        return max(0.0, round(time.time() - psutil.boot_time(), 3))


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
