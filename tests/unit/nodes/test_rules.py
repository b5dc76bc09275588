"""What a node is taken to be, from its reports and its connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import NOW, later

from aiwm.nodes import rules
from aiwm.nodes.records import NodeObservation
from aiwm.protocol.node_channel import Heartbeat, Metrics, NodeRegister
from aiwm.protocol.resources.nodes import GpuDevice
from aiwm.protocol.states import Health, NodeStatus

NEW = NodeObservation(id="node-1")


def gpu(device_id: str = "0", **said: object) -> GpuDevice:
    return GpuDevice.model_validate({"deviceId": device_id, **said})


def test_a_connection_opens_an_epoch_but_only_a_registration_makes_it_online() -> None:
    seen = rules.connected(NEW, instance=None, at=NOW)
    assert (seen.epoch, seen.connected_at, seen.status) == (1, NOW, NodeStatus.OFFLINE)
    seen = rules.registered(seen, NodeRegister(), at=later(1))
    assert (seen.status, seen.last_heartbeat) == (NodeStatus.ONLINE, later(1))


def test_a_registration_replaces_what_it_names_and_keeps_the_rest() -> None:
    first = NodeRegister(hostname="one", cpu_cores=8, gpu_devices=[gpu("0"), gpu("1")])
    seen = rules.registered(NEW, first, at=NOW)
    seen = rules.registered(seen, NodeRegister(hostname="two", gpu_devices=[]), at=NOW)
    assert (seen.hostname, seen.cpu_cores, seen.gpu_devices) == ("two", 8, [])


@pytest.mark.parametrize(
    ("health", "status"),
    [(Health.HEALTHY, NodeStatus.ONLINE), (Health.DEGRADED, NodeStatus.ONLINE), (Health.ERROR, NodeStatus.ERROR)],
)
def test_a_heartbeat_s_health_decides_the_status(health: Health, status: NodeStatus) -> None:
    seen = rules.beat(NEW, Heartbeat(status=health, uptime_seconds=7), at=NOW)
    assert (seen.status, seen.health, seen.last_heartbeat, seen.uptime_seconds) == (status, health, NOW, 7)


def test_a_node_in_error_stays_so_when_it_registers_again_and_recovers_with_its_next_good_heartbeat() -> None:
    seen = rules.beat(NEW, Heartbeat(status=Health.ERROR), at=NOW)
    seen = rules.registered(rules.gone(seen, epoch=0, at=NOW), NodeRegister(), at=NOW)
    assert seen.status is NodeStatus.ERROR
    assert rules.beat(seen, Heartbeat(), at=NOW).status is NodeStatus.ONLINE


def test_a_heartbeat_without_an_uptime_keeps_the_last_one() -> None:
    seen = rules.beat(NEW, Heartbeat(uptime_seconds=7), at=NOW)
    assert rules.beat(seen, Heartbeat(), at=later(1)).uptime_seconds == 7


def test_the_end_of_an_old_connection_does_not_take_a_node_offline() -> None:
    seen = rules.registered(
        rules.connected(rules.connected(NEW, instance=None, at=NOW), instance=None, at=NOW), NodeRegister(), at=NOW
    )
    assert rules.gone(seen, epoch=1, at=NOW) is seen
    ended = rules.gone(seen, epoch=2, at=NOW)
    assert (ended.status, ended.connected_at) == (NodeStatus.OFFLINE, None)
    assert rules.gone(ended, epoch=2, at=NOW) is ended


def test_a_missing_node_is_offline_whatever_its_epoch() -> None:
    seen = rules.registered(rules.connected(NEW, instance=None, at=NOW), NodeRegister(), at=NOW)
    assert rules.missing(seen, at=NOW).status is NodeStatus.OFFLINE


def test_used_memory_gives_free_memory() -> None:
    seen = rules.measured(NEW, Metrics(gpu_devices=[gpu(memoryTotal=16_384, memoryUsed=8192)]))
    assert seen.gpu_devices[0].memory_free == 8192
    seen = rules.measured(seen, Metrics(gpu_devices=[gpu(memoryUsed=16_000)]))
    assert (seen.gpu_devices[0].memory_total, seen.gpu_devices[0].memory_free) == (16_384, 384)


def test_a_lost_gpu_keeps_what_it_is_and_forgets_what_it_measured() -> None:
    seen = rules.measured(
        NEW, Metrics(gpu_devices=[gpu(memoryTotal=100, memoryUsed=40, temperature=70, utilization=9)])
    )
    (lost,) = rules.measured(seen, Metrics(gpu_devices=[gpu(health="error")])).gpu_devices
    assert (lost.memory_total, lost.health) == (100, "error")
    assert (lost.memory_used, lost.memory_free, lost.temperature, lost.utilization) == (None, None, None, None)


def test_more_used_than_there_is_leaves_none_free() -> None:
    seen = rules.measured(NEW, Metrics(gpu_devices=[gpu(memoryTotal=100, memoryUsed=150)]))
    assert seen.gpu_devices[0].memory_free == 0


def test_free_memory_that_is_said_counts_more_than_what_could_be_reckoned() -> None:
    seen = rules.measured(NEW, Metrics(gpu_devices=[gpu(memoryTotal=100, memoryUsed=50, memoryFree=40)]))
    assert seen.gpu_devices[0].memory_free == 40


def test_used_memory_without_a_total_says_nothing_of_free_memory() -> None:
    assert rules.measured(NEW, Metrics(gpu_devices=[gpu(memoryUsed=50)])).gpu_devices[0].memory_free is None


def test_a_registration_with_used_memory_gives_free_memory_too() -> None:
    report = NodeRegister(gpu_devices=[gpu(memoryTotal=100, memoryUsed=30)])
    assert rules.registered(NEW, report, at=NOW).gpu_devices[0].memory_free == 70


def test_metrics_change_the_devices_and_sizes_they_name_alone() -> None:
    named = NodeRegister(ram_free=5, disk_free=6, gpu_devices=[gpu("0", model="H200"), gpu("1", model="H200")])
    seen = rules.registered(NEW, named, at=NOW)
    seen = rules.measured(seen, Metrics(ram_free=4, gpu_devices=[gpu("1", temperature=70), gpu("2", temperature=30)]))
    assert (seen.ram_free, seen.disk_free) == (4, 6)
    assert [(each.device_id, each.model, each.temperature) for each in seen.gpu_devices] == [
        ("0", "H200", None),
        ("1", "H200", 70),
        ("2", None, 30),
    ]


def test_metrics_that_name_nothing_change_nothing() -> None:
    assert rules.measured(NEW, Metrics()) is NEW


devices = st.builds(
    lambda **said: GpuDevice.model_validate(said),
    device_id=st.sampled_from(["0", "1", "2"]),
    memory_total=st.none() | st.integers(0, 100),
    memory_used=st.none() | st.integers(0, 100),
    temperature=st.none() | st.floats(0, 100),
)


@given(st.lists(devices, max_size=3, unique_by=lambda device: device.device_id))
def test_a_device_is_listed_once_and_a_report_twice_is_a_report_once(reported: list[GpuDevice]) -> None:
    once = rules.measured(NEW, Metrics(gpu_devices=reported))
    ids = [each.device_id for each in once.gpu_devices]
    assert len(ids) == len(set(ids))
    assert set(ids) == {each.device_id for each in reported}
    assert rules.measured(once, Metrics(gpu_devices=reported)).gpu_devices == once.gpu_devices
    assert all(each.memory_free is None or each.memory_free >= 0 for each in once.gpu_devices)


@pytest.mark.parametrize(
    ("report", "own", "host"),
    [
        (NodeRegister(advertise_host="10.0.0.7", machine="m"), "m", "10.0.0.7"),
        (NodeRegister(machine="m"), "m", "127.0.0.1"),
        (NodeRegister(machine="other"), "m", None),
        (NodeRegister(), None, None),
        (NodeRegister(), "m", None),
        (NodeRegister(ip_address="10.0.0.7"), "m", None),
    ],
)
def test_the_gateway_dials_what_an_operator_gave_or_its_own_machine(
    report: NodeRegister, own: str | None, host: str | None
) -> None:
    seen = rules.registered(NEW, report, at=NOW)
    assert rules.dial_host(seen, own_machine=own) == host
