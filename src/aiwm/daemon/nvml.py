"""NVIDIA's management library, opened as it can be and with its failures sorted: no driver, a broken one, a gap.

Its binding costs 15 MB and is imported only where the library is. `NVMLLibraryMismatchError`, which an old driver
leads to, is not one of its own `NVMLError`s.
"""

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

LIBRARY = "libnvidia-ml.so.1"
_ASK_AGAIN = "see `nvidia-smi` and `dmesg`"
_MOST_EVENTS = 64


class DriverBroken(Exception):
    """The driver is there and cannot be used; the message is a sentence that says what to do."""


class DeviceLost(Exception):
    """A device that the driver knows and cannot reach any more, or not before a reset."""


class Nvml:
    """An open library. `ask` answers None for what a device does not say."""

    def __init__(self, binding: Any) -> None:
        self.binding = binding
        self._events: Any = None

    def count(self) -> int:
        """Raises `DriverBroken`; also once the driver was unloaded or replaced below this process."""
        try:
            return int(self.binding.nvmlDeviceGetCount())
        except self._errors as error:
            raise DriverBroken(_why(self.binding, error, opened=True)) from error

    def ask(self, question: Callable[[], T]) -> T | None:
        """None when it is not supported or not readable. Raises `DeviceLost`."""
        try:
            return question()
        except ValueError:
            return None
        except self._errors as error:
            if _code(error) in (self.binding.NVML_ERROR_GPU_IS_LOST, self.binding.NVML_ERROR_RESET_REQUIRED):
                raise DeviceLost from error
            return None

    def watch_xids(self, handle: Any) -> None:
        """Xid errors of this device are told by `xids` from now on, where the driver can."""
        if self._events is None:
            self._events = self.ask(self.binding.nvmlEventSetCreate)
        if self._events is not None:
            kind = self.binding.nvmlEventTypeXidCriticalError
            self.ask(lambda: self.binding.nvmlDeviceRegisterEvents(handle, kind, self._events))

    def xids(self) -> list[tuple[str, int]]:
        """Xid errors since the last call, as UUID and number; never waits."""
        found: list[tuple[str, int]] = []
        while self._events is not None and len(found) < _MOST_EVENTS:
            with contextlib.suppress(DeviceLost):
                if (event := self.ask(lambda: self.binding.nvmlEventSetWait(self._events, 0))) is not None:
                    found.append((self._uuid(event.device), int(event.eventData)))
                    continue
            break
        return found

    def close(self) -> None:
        """Lets go of the driver, so that `open_nvml` finds what is there then."""
        with contextlib.suppress(*self._errors):
            if self._events is not None:
                self.binding.nvmlEventSetFree(self._events)
            self.binding.nvmlShutdown()

    def _uuid(self, handle: Any) -> str:
        with contextlib.suppress(DeviceLost):
            return self.ask(lambda: str(self.binding.nvmlDeviceGetUUID(handle))) or ""
        return ""

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (self.binding.NVMLError, self.binding.NVMLLibraryMismatchError)


def open_nvml(again: bool) -> Nvml | None:
    """None on a machine without a driver; `again` when this process had it open before. Raises `DriverBroken`."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        if "cannot open shared object file: No such file" in str(error):
            return None
        raise DriverBroken(f"cannot load NVIDIA's {LIBRARY}: {error}; install the driver again") from error
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError) as error:
        raise DriverBroken(_why(pynvml, error, opened=again)) from error
    return Nvml(pynvml)


def _code(error: Exception) -> int | None:
    code = getattr(error, "value", None)
    return code if isinstance(code, int) else None


def _why(binding: Any, error: Exception, *, opened: bool) -> str:
    code = _code(error)
    if code == binding.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return _mismatch(opened=opened)
    if code in (binding.NVML_ERROR_UNINITIALIZED, binding.NVML_ERROR_DRIVER_NOT_LOADED):
        return (
            "cannot see the GPUs: NVIDIA's kernel module is not loaded; load it with `modprobe nvidia`, "
            "or restart the machine"
        )
    if code == binding.NVML_ERROR_NO_PERMISSION:
        return (
            "cannot see the GPUs: the daemon's user may not open /dev/nvidiactl; allow it, or install the daemon with "
            "`aiwm node install`"
        )
    if code is None or code == binding.NVML_ERROR_FUNCTION_NOT_FOUND:
        return f"cannot see the GPUs: NVIDIA's driver is too old for this daemon ({error}); install a newer one"
    return f"cannot see the GPUs: NVIDIA's driver fails ({error}); {_ASK_AGAIN}, then restart the machine"


def _mismatch(*, opened: bool) -> str:
    if opened:
        return (
            "cannot see the GPUs: NVIDIA's driver was replaced while the daemon ran; restart the daemon "
            "(`systemctl restart aiwm-node`, engines go on)"
        )
    return (
        "cannot see the GPUs: NVIDIA's library and kernel module are of different versions, as after an upgrade "
        "without a restart; restart the machine"
    )
