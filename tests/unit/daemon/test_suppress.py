"""Metrics go out when they say something new, and once a minute."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.suppress import AT_LEAST_EVERY_SECONDS, Suppression, differs
from aiwm.protocol.node_channel import EngineNumbers, Metrics, ReplicaUsage
from aiwm.protocol.resources.nodes import GpuDevice

MIB = st.one_of(st.none(), st.integers(0, 200_000))
GPUS = st.fixed_dictionaries(
    {
        "device_id": st.sampled_from(["0", "1"]),
        "utilization": st.one_of(st.none(), st.floats(0, 100)),
        "temperature": st.one_of(st.none(), st.floats(20, 110)),
        "memory_used": MIB,
        "health": st.sampled_from(["ok", "warning", "error"]),
        "ecc_errors": st.one_of(st.none(), st.integers(0, 5)),
        "xid": st.one_of(st.none(), st.integers(0, 100)),
    }
).map(GpuDevice.model_validate)
ENGINES = st.one_of(st.none(), st.builds(EngineNumbers, requests=st.integers(0, 5), queued=st.integers(0, 5)))
REPLICAS = st.fixed_dictionaries(
    {"replica_id": st.sampled_from(["r-1", "r-2"]), "ram_used": MIB, "engine": ENGINES}
).map(ReplicaUsage.model_validate)
METRICS = st.fixed_dictionaries(
    {
        "gpu_devices": st.lists(GPUS, unique_by=lambda gpu: gpu.device_id),
        "cpu_utilization": st.one_of(st.none(), st.floats(0, 100)),
        "ram_free": MIB,
        "disk_free": MIB,
        "replicas": st.lists(REPLICAS, max_size=1),
    }
).map(Metrics.model_validate)


@given(st.lists(st.tuples(METRICS, st.floats(0.1, 20)), max_size=12))
def test_what_the_controller_knows_is_never_older_than_a_minute_nor_far_off(steps: list[tuple[Metrics, float]]) -> None:
    suppression, now, known, sent_at = Suppression(), 0.0, None, 0.0
    for metrics, seconds in steps:
        now += seconds
        if suppression.due(metrics, now):
            suppression.sent(metrics, now)
            known, sent_at = metrics, now
        assert known is not None
        assert now - sent_at < AT_LEAST_EVERY_SECONDS
        assert not differs(known, metrics)
        shown = {gpu.device_id: (gpu.health, gpu.ecc_errors, gpu.xid) for gpu in known.gpu_devices or []}
        assert shown == {gpu.device_id: (gpu.health, gpu.ecc_errors, gpu.xid) for gpu in metrics.gpu_devices or []}
        counted = {each.replica_id: each.engine for each in known.replicas or []}
        assert counted == {each.replica_id: each.engine for each in metrics.replicas or []}


@given(METRICS)
def test_the_same_again_is_not_sent(metrics: Metrics) -> None:
    assert not differs(metrics, metrics.model_copy(deep=True))


@given(METRICS)
def test_a_new_connection_hears_of_everything(metrics: Metrics) -> None:
    suppression = Suppression()
    suppression.sent(metrics, 0)
    assert not suppression.due(metrics, 1)
    suppression.begin()
    assert suppression.due(metrics, 2)


def test_what_was_not_sent_is_still_due() -> None:
    suppression = Suppression()
    assert suppression.due(Metrics(ram_free=1), 0)
    assert suppression.due(Metrics(ram_free=1), 1)


def gpu(**fields: Any) -> dict[str, Any]:
    return {"gpu_devices": [GpuDevice(device_id="0", **fields)]}


def replica(**fields: Any) -> dict[str, Any]:
    return {"replicas": [ReplicaUsage(replica_id="r-1", **fields)]}


@pytest.mark.parametrize(
    ("sent", "silent", "told"),
    [
        (gpu(utilization=10), gpu(utilization=11.9), gpu(utilization=12)),
        (gpu(temperature=60), gpu(temperature=60.5), gpu(temperature=61)),
        (gpu(memory_used=40_000), gpu(memory_used=40_063), gpu(memory_used=40_064)),
        (gpu(memory_used=1_000), gpu(memory_used=1_009), gpu(memory_used=990)),
        (gpu(health="ok"), gpu(health="ok"), gpu(health="warning")),
        (gpu(ecc_errors=0), gpu(ecc_errors=0), gpu(ecc_errors=1)),
        (gpu(), gpu(), gpu(xid=79)),
        (gpu(temperature=60), gpu(temperature=60), gpu()),
        ({"ram_free": 100_000}, {"ram_free": 99_745}, {"ram_free": 99_744}),
        ({"ram_free": 1_000}, {"ram_free": 991}, {"ram_free": 990}),
        ({"disk_free": 0}, {"disk_free": 0}, {"disk_free": 1}),
        ({"cpu_utilization": 10}, {"cpu_utilization": 14.9}, {"cpu_utilization": 5}),
        ({"replicas": []}, {"replicas": []}, replica()),
        (replica(cpu_utilization=10), replica(cpu_utilization=14), replica(cpu_utilization=150)),
        (
            replica(engine=EngineNumbers(requests=1)),
            replica(engine=EngineNumbers(requests=1)),
            replica(engine=EngineNumbers(requests=2)),
        ),
        (replica(), replica(), replica(engine=EngineNumbers())),
        (gpu(), gpu(), {"gpu_devices": []}),
    ],
)
def test_small_moves_are_kept_back_and_others_told(
    sent: dict[str, Any], silent: dict[str, Any], told: dict[str, Any]
) -> None:
    assert not differs(Metrics(**sent), Metrics(**silent))
    assert differs(Metrics(**sent), Metrics(**told))
