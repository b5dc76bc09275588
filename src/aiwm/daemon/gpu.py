"""NVIDIA GPUs through NVML; a machine without a driver has none, and a device that does not say leaves a gap."""

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

from aiwm.protocol.resources.nodes import GpuDevice

T = TypeVar("T")

_MIB = 2**20


class Gpus:
    """The machine's GPUs. NVML is loaded only where its driver library is: it costs memory that most nodes can save."""

    def __init__(self) -> None:
        self._nvml = _open()
        self._driver: str | None = None
        self._cuda: str | None = None
        if self._nvml is not None:
            self._driver = self._ask(self._nvml.nvmlSystemGetDriverVersion)
            cuda = self._ask(self._nvml.nvmlSystemGetCudaDriverVersion)
            self._cuda = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"

    def read(self) -> list[GpuDevice]:
        """Every GPU as it is now, by its index."""
        if self._nvml is None:
            return []
        count = self._ask(self._nvml.nvmlDeviceGetCount) or 0
        return [self._device(index) for index in range(count)]

    def _device(self, index: int) -> GpuDevice:
        nvml: Any = self._nvml
        handle = self._ask(lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        if handle is None:
            return GpuDevice(device_id=str(index), health="error")
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        use = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        return GpuDevice(
            device_id=str(index),
            model=self._ask(lambda: nvml.nvmlDeviceGetName(handle)),
            memory_total=None if memory is None else memory.total // _MIB,
            memory_free=None if memory is None else memory.free // _MIB,
            memory_used=None if memory is None else memory.used // _MIB,
            utilization=None if use is None else use.gpu,
            temperature=self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            uuid=self._ask(lambda: nvml.nvmlDeviceGetUUID(handle)),
            driver_version=self._driver,
            cuda_version=self._cuda,
            health="ok",
        )

    def _ask(self, question: Callable[[], T]) -> T | None:
        nvml: Any = self._nvml
        with contextlib.suppress(nvml.NVMLError):
            return question()
        return None


def _open() -> Any:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError):
        return None
    return pynvml
