"""This machine's NVIDIA GPUs. A device's fault is that device's, a driver's is a condition, no driver is no GPUs."""

import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from aiwm.daemon.devices import health_of, name_devices
from aiwm.daemon.keeper import boot_id, write_atomically
from aiwm.daemon.nvml import DeviceLost, DriverBroken, Nvml, open_nvml
from aiwm.protocol.resources.nodes import GpuDevice

log = logging.getLogger(__name__)

_MIB = 2**20
_SHORT = 256


@dataclass(frozen=True, slots=True)
class Reading:
    """All GPUs at one moment, what is wrong with their driver, and GPU memory in MiB by process id.

    `cuda_names` are the devices' UUIDs once CUDA's own counting cannot be relied on.
    """

    devices: list[GpuDevice] = field(default_factory=list)
    broken: str | None = None
    memory: Mapping[int, int] | None = None
    cuda_names: Mapping[str, str] = field(default_factory=dict)


class Gpus:
    """Not to be called by two threads at once. `kept` is a file: ids outlive the daemon, as engines do."""

    def __init__(self, kept: Path | None, open_library: Callable[[bool], Nvml | None] = open_nvml) -> None:
        self._kept, self._open = kept, open_library
        self._nvml: Nvml | None = None
        self._was_open = False
        self._known: Mapping[str, str] = {} if kept is None else _read_ids(kept)
        self._last: dict[str, GpuDevice] = {}
        self._xids: dict[str, int] = {}
        self._watched: set[str] = set()
        self._driver: dict[str, str | None] = {}

    def read(self) -> Reading:
        """Every GPU that was seen since the machine started, as it is now."""
        try:
            if self._nvml is None and not self._reopen():
                return Reading(self._all_lost())
            devices, memory = self._devices(cast(Nvml, self._nvml))
        except DriverBroken as error:
            self._close()
            return Reading(self._all_lost(), broken=str(error))
        return Reading(devices, memory=memory, cuda_names=_cuda_names(devices))

    def _reopen(self) -> bool:
        self._nvml = nvml = self._open(self._was_open)
        if nvml is None:
            return False
        self._was_open = True
        cuda = _unless_lost(nvml, lambda: nvml.binding.nvmlSystemGetCudaDriverVersion())
        self._driver = {
            "driver_version": _unless_lost(nvml, lambda: str(nvml.binding.nvmlSystemGetDriverVersion())),
            "cuda_version": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        }
        # What was said before the driver was loaded anew is over.
        self._xids, self._watched = {}, set()
        return True

    def _close(self) -> None:
        if self._nvml is not None:
            self._nvml.close()
            self._nvml = None

    def _devices(self, nvml: Nvml) -> tuple[list[GpuDevice], Mapping[int, int] | None]:
        handles = [_unless_lost(nvml, _handle(nvml, index)) for index in range(nvml.count())]
        uuids = [None if handle is None else _identity(nvml, handle, index) for index, handle in enumerate(handles)]
        named = name_devices(self._known, uuids)
        self._keep(named.known)
        memory: dict[int, int] | None = None
        self._hear_xids(nvml, [(uuid, handle) for uuid, handle in zip(uuids, handles, strict=True) if uuid])
        devices = [self._gone(uuid, device_id) for uuid, device_id in named.lost.items()]
        for device_id, uuid, handle in zip(named.ids, uuids, handles, strict=True):
            if device_id is None:
                continue
            if uuid is None:
                devices.append(GpuDevice(device_id=device_id, health="error"))
                continue
            try:
                devices.append(self._ask(nvml, device_id, uuid, handle))
                memory = _added(memory, _processes(nvml, handle))
            except DeviceLost:
                devices.append(self._gone(uuid, device_id))
        return sorted(devices, key=lambda gpu: int(gpu.device_id)), memory

    def _ask(self, nvml: Nvml, device_id: str, uuid: str, handle: Any) -> GpuDevice:
        ask, binding = nvml.ask, nvml.binding
        memory = ask(lambda: binding.nvmlDeviceGetMemoryInfo(handle))
        use = ask(lambda: binding.nvmlDeviceGetUtilizationRates(handle))
        ecc = ask(
            lambda: binding.nvmlDeviceGetTotalEccErrors(
                handle, binding.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, binding.NVML_VOLATILE_ECC
            )
        )
        xid = self._xids.get(uuid)
        device = GpuDevice(
            device_id=device_id,
            model=(ask(lambda: str(binding.nvmlDeviceGetName(handle))) or "")[:_SHORT] or None,
            memory_total=None if memory is None else memory.total // _MIB,
            memory_free=None if memory is None else memory.free // _MIB,
            memory_used=None if memory is None else memory.used // _MIB,
            utilization=use.gpu if use is not None and use.gpu <= 100 else None,
            temperature=ask(lambda: binding.nvmlDeviceGetTemperature(handle, binding.NVML_TEMPERATURE_GPU)),
            uuid=uuid,
            health=_health(health_of(answers=True, ecc_errors=ecc, xid=xid)),
            ecc_errors=ecc,
            xid=xid,
            **self._driver,
        )
        self._last[uuid] = device
        return device

    def _gone(self, uuid: str, device_id: str) -> GpuDevice:
        """What stays true of a device that does not answer, and no measurement."""
        seen = self._last.get(uuid)
        return GpuDevice(
            device_id=device_id,
            uuid=uuid,
            model=seen.model if seen else None,
            memory_total=seen.memory_total if seen else None,
            health="error",
            ecc_errors=seen.ecc_errors if seen else None,
            xid=self._xids.get(uuid),
        )

    def _all_lost(self) -> list[GpuDevice]:
        return sorted(
            (self._gone(uuid, each) for uuid, each in self._known.items()), key=lambda gpu: int(gpu.device_id)
        )

    def _hear_xids(self, nvml: Nvml, devices: list[tuple[str, Any]]) -> None:
        for uuid, handle in devices:
            if uuid not in self._watched:
                self._watched.add(uuid)
                with contextlib.suppress(DeviceLost):
                    nvml.watch_xids(handle)
        for uuid, number in nvml.xids():
            log.warning("the driver reported Xid %s for GPU %s", number, uuid or "of unknown UUID")
            # One that costs the GPU is not covered up by what follows from it.
            if health_of(answers=True, ecc_errors=None, xid=self._xids.get(uuid)) != "error":
                self._xids[uuid] = number

    def _keep(self, known: Mapping[str, str]) -> None:
        if known == self._known:
            return
        self._known = known
        if self._kept is None:
            return
        try:
            write_atomically(self._kept, {"bootId": boot_id(), "ids": dict(known)})
        except OSError as error:
            log.warning("cannot keep the GPUs' ids in %s: %s", self._kept, error.strerror)


def _read_ids(kept: Path) -> Mapping[str, str]:
    """The ids of this boot: after a restart of the machine nothing runs on a GPU, and NVML counts anew."""
    try:
        content = json.loads(kept.read_text())
        if content["bootId"] == boot_id():
            return {str(uuid): str(int(each)) for uuid, each in content["ids"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("cannot read the GPUs' ids in %s: %s; they are counted anew", kept, error)
    return {}


def _cuda_names(devices: list[GpuDevice]) -> dict[str, str]:
    """Nothing while CUDA counts as we do: no device is lost, so none is skipped and the ids are the places."""
    ids = [gpu.device_id for gpu in devices]
    if ids == [str(place) for place in range(len(ids))] and all(gpu.health != "error" for gpu in devices):
        return {}
    return {gpu.device_id: gpu.uuid for gpu in devices if gpu.uuid is not None and gpu.uuid.startswith("GPU-")}


def _handle(nvml: Nvml, index: int) -> Callable[[], Any]:
    return lambda: nvml.binding.nvmlDeviceGetHandleByIndex(index)


def _identity(nvml: Nvml, handle: Any, index: int) -> str | None:
    """The UUID, or the place for a device that has none; None for one that does not answer."""
    try:
        return (nvml.ask(lambda: str(nvml.binding.nvmlDeviceGetUUID(handle))) or f"place-{index}")[:_SHORT]
    except DeviceLost:
        return None


def _processes(nvml: Nvml, handle: Any) -> dict[int, int] | None:
    processes = nvml.ask(lambda: nvml.binding.nvmlDeviceGetComputeRunningProcesses(handle))
    if processes is None:
        return None
    used: dict[int, int] = defaultdict(int)
    for each in processes:
        used[int(each.pid)] += (each.usedGpuMemory or 0) // _MIB
    return used


def _added(sums: dict[int, int] | None, more: dict[int, int] | None) -> dict[int, int] | None:
    if sums is None or more is None:
        return more if sums is None else sums
    return {pid: sums.get(pid, 0) + more.get(pid, 0) for pid in {*sums, *more}}


def _unless_lost(nvml: Nvml, question: Callable[[], Any]) -> Any:
    with contextlib.suppress(DeviceLost):
        return nvml.ask(question)
    return None


def _health(word: str) -> Literal["ok", "warning", "error"]:
    return cast(Literal["ok", "warning", "error"], word)
