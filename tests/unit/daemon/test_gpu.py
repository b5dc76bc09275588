"""GPUs as their driver tells of them: gaps, lost devices, and ids that stay."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon import nvml
from aiwm.daemon.devices import health_of, name_devices
from aiwm.daemon.gpu import Gpus, Reading
from aiwm.daemon.keeper import boot_id

UUIDS = st.lists(st.sampled_from([f"GPU-{letter}" for letter in "abcdef"]), unique=True, max_size=6)
FOUND = st.lists(st.one_of(st.none(), st.sampled_from([f"GPU-{letter}" for letter in "abcdef"])), max_size=6)


def known_from(uuids: list[str]) -> dict[str, str]:
    return {uuid: str(place) for place, uuid in enumerate(uuids)}


@given(st.lists(FOUND, max_size=6))
def test_a_device_keeps_its_id_and_shares_it_with_no_other(readings: list[list[str | None]]) -> None:
    known: dict[str, str] = {}
    for found in readings:
        named = name_devices(known, found)
        assert named.known.items() >= known.items()
        shown = [each for each in named.ids if each is not None] + list(named.lost.values())
        assert len(set(shown)) == len(shown)
        assert set(named.lost) == set(known) - set(found)
        known = dict(named.known)


@given(UUIDS)
def test_the_first_reading_counts_as_the_driver_does(uuids: list[str]) -> None:
    assert name_devices({}, list(uuids)).ids == tuple(str(place) for place in range(len(uuids)))


@given(UUIDS, st.data())
def test_no_more_devices_are_told_of_than_there_are(uuids: list[str], data: st.DataObject) -> None:
    silent = data.draw(st.sets(st.sampled_from(uuids))) if uuids else set()
    named = name_devices(known_from(uuids), [None if uuid in silent else uuid for uuid in uuids])
    assert set(named.lost) == silent
    assert [each for each in named.ids if each is not None] == [
        str(place) for place, uuid in enumerate(uuids) if uuid not in silent
    ]


def test_a_gpu_that_vanished_renames_no_other() -> None:
    named = name_devices({"GPU-a": "0", "GPU-b": "1"}, ["GPU-b"])
    assert (named.ids, named.lost) == (("1",), {"GPU-a": "0"})


def test_a_new_gpu_gets_no_id_that_another_had() -> None:
    named = name_devices({"GPU-a": "0", "GPU-b": "1"}, ["GPU-b", "GPU-c"])
    assert named.ids == ("1", "2")


def test_a_device_that_never_answered_is_shown_at_its_place() -> None:
    assert name_devices({}, ["GPU-a", None]).ids == ("0", "1")


@pytest.mark.parametrize(
    ("said", "health"),
    [
        ({}, "ok"),
        ({"ecc_errors": 0}, "ok"),
        ({"ecc_errors": 1}, "warning"),
        ({"xid": 63}, "warning"),
        ({"xid": 13}, "ok"),
        ({"xid": 79}, "error"),
        ({"xid": 48, "ecc_errors": 2}, "error"),
        ({"answers": False}, "error"),
    ],
)
def test_health_follows_from_faults(said: dict[str, Any], health: str) -> None:
    assert health_of(**{"answers": True, "ecc_errors": None, "xid": None, **said}) == health


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class MismatchError(Exception):
    """As in the binding: no kind of NVML's own error."""


def refuse(code: int) -> Any:
    def question(*_: object) -> Any:
        raise MismatchError if code < 0 else NvmlError(code)

    return question


def binding(**changes: Any) -> Any:
    """The binding of a driver with two GPUs, of which the second does not answer."""
    own = {
        "NVMLError": NvmlError,
        "NVMLLibraryMismatchError": MismatchError,
        "NVML_ERROR_UNINITIALIZED": 1,
        "NVML_ERROR_NO_PERMISSION": 4,
        "NVML_ERROR_DRIVER_NOT_LOADED": 9,
        "NVML_ERROR_FUNCTION_NOT_FOUND": 13,
        "NVML_ERROR_GPU_IS_LOST": 15,
        "NVML_ERROR_RESET_REQUIRED": 16,
        "NVML_ERROR_LIB_RM_VERSION_MISMATCH": 18,
        "NVML_TEMPERATURE_GPU": 0,
        "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
        "NVML_VOLATILE_ECC": 0,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "550.54.15",
        "nvmlSystemGetCudaDriverVersion": lambda: 12040,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index if index == 0 else refuse(15)(),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80 << 30, free=70 << 30, used=10 << 30),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=42),
        "nvmlDeviceGetTemperature": refuse(3),
        "nvmlDeviceGetTotalEccErrors": refuse(3),
        "nvmlDeviceGetComputeRunningProcesses": refuse(3),
        "nvmlDeviceGetName": lambda handle: "A100",
        "nvmlDeviceGetUUID": lambda handle: "GPU-1",
        "nvmlEventSetCreate": refuse(3),
    }
    return SimpleNamespace(**(own | changes))


def reading(folder: Path, **changes: Any) -> Reading:
    return Gpus(folder / "gpus.json", lambda again: nvml.Nvml(binding(**changes))).read()


def test_what_one_gpu_does_not_say_is_a_gap_and_a_lost_one_is_an_error(tmp_path: Path) -> None:
    good, lost = reading(tmp_path).devices
    assert good.to_wire() == {
        "deviceId": "0",
        "model": "A100",
        "memoryTotal": 81_920,
        "memoryFree": 71_680,
        "memoryUsed": 10_240,
        "utilization": 42.0,
        "uuid": "GPU-1",
        "driverVersion": "550.54.15",
        "cudaVersion": "12.4",
        "health": "ok",
    }
    assert lost.to_wire() == {"deviceId": "1", "health": "error"}


def test_numbers_that_cannot_be_are_gaps(tmp_path: Path) -> None:
    def not_text(handle: object) -> str:
        return b"\xff".decode()

    (gpu, _) = reading(
        tmp_path,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=4_294_967_295),
        nvmlDeviceGetName=not_text,
    ).devices
    assert (gpu.utilization, gpu.model, gpu.health) == (None, None, "ok")


def test_a_machine_without_a_driver_has_no_gpus_and_nothing_to_complain_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "libno-such-driver.so.1")
    assert Gpus(tmp_path / "gpus.json").read() == Reading()


@pytest.mark.parametrize(
    ("code", "again", "sentence"),
    [
        (18, False, "of different versions"),
        (18, True, "was replaced while the daemon ran"),
        (9, False, "kernel module is not loaded"),
        (4, False, "may not open /dev/nvidiactl"),
        (13, False, "too old"),
        (-1, False, "too old"),
        (999, False, "driver fails"),
    ],
)
def test_a_driver_that_cannot_be_used_is_a_sentence_that_says_what_to_do(
    code: int, again: bool, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "libc.so.6")
    monkeypatch.setitem(sys.modules, "pynvml", binding(nvmlInit=refuse(code)))
    with pytest.raises(nvml.DriverBroken, match=sentence) as caught:
        nvml.open_nvml(again)
    assert str(caught.value).startswith("cannot see the GPUs: ")
    assert "; " in str(caught.value)


def test_ids_are_kept_for_the_next_daemon_of_this_boot_alone(tmp_path: Path) -> None:
    kept = tmp_path / "gpus.json"
    kept.write_text(json.dumps({"bootId": boot_id(), "ids": {"GPU-0": "0", "GPU-1": "1"}}))
    devices = reading(tmp_path, nvmlDeviceGetCount=lambda: 1).devices
    assert [(gpu.device_id, gpu.uuid, gpu.health) for gpu in devices] == [("0", "GPU-0", "error"), ("1", "GPU-1", "ok")]
    kept.write_text(json.dumps({"bootId": "another", "ids": {"GPU-0": "0", "GPU-1": "1"}}))
    assert [gpu.device_id for gpu in reading(tmp_path, nvmlDeviceGetCount=lambda: 1).devices] == ["0"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"bootId": 1}', '{"ids": {}}'])
def test_ids_that_cannot_be_read_are_counted_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "gpus.json").write_text(content)
    assert [gpu.device_id for gpu in reading(tmp_path).devices] == ["0", "1"]


def test_engines_get_uuids_once_cuda_would_count_otherwise(tmp_path: Path) -> None:
    assert (
        reading(tmp_path, nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetCount=lambda: 1).cuda_names == {}
    )
    assert reading(tmp_path).cuda_names == {"0": "GPU-1"}
