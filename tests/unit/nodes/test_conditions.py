"""What is taken to be wrong with a node, and for how long."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import NOW, later
from tests.unit.nodes.node_builders import gpu, holding, online, said_of

from aiwm.nodes import conditions
from aiwm.nodes.conditions import judged
from aiwm.nodes.records import NodeObservation
from aiwm.protocol.resources.nodes import ConditionReport, GpuDevice
from aiwm.protocol.states import NodeStatus


def changed(seen: NodeObservation, **changes: object) -> NodeObservation:
    return seen.model_copy(update=changes)


def report(type_: str = "DriverBroken", status: bool = True) -> ConditionReport:
    return ConditionReport(type=type_, status=status, reason="Because", message="it is so")


@pytest.mark.parametrize(
    ("device", "type_"),
    [
        (gpu(temperature=90), "GPUTemperature"),
        (gpu(memory_total=1000, memory_used=990), "GPUMemory"),
        (gpu(ecc_errors=1), "GPUErrors"),
        (gpu(xid=63), "GPUErrors"),
        (gpu(xid=79), "GPULost"),
        (gpu(health="warning"), "GPUErrors"),
        (gpu(health="error"), "GPULost"),
        (gpu(health="error", xid=79), "GPULost"),
    ],
)
def test_a_device_s_trouble_is_a_condition_of_its_node_that_names_it(device: GpuDevice, type_: str) -> None:
    seen = judged(online(gpu("7", model="fine"), device), at=NOW)
    assert holding(seen) == {type_}
    assert seen.condition_devices == {type_: ["0"]}
    assert "GPU 0 " in said_of(seen, type_).message
    assert said_of(seen, type_).since == NOW


@pytest.mark.parametrize(
    "device",
    [
        gpu(),
        gpu(temperature=89.9, memory_total=1000, memory_used=980, ecc_errors=0, xid=0, health="ok"),
        gpu(memory_total=0, memory_used=0),
        gpu(memory_used=5),
        gpu(xid=31),
    ],
)
def test_what_is_normal_or_not_said_is_no_condition_and_a_program_s_fault_is_not_the_gpu_s(device: GpuDevice) -> None:
    seen = online(device)
    assert judged(seen, at=NOW) is seen


def test_each_device_has_its_own_memory_of_the_limit_it_went_over() -> None:
    seen = judged(online(gpu("0", temperature=95), gpu("1", temperature=87)), at=NOW)
    assert seen.condition_devices["GPUTemperature"] == ["0"]
    cooler = judged(changed(seen, gpu_devices=[gpu("0", temperature=86), gpu("1", temperature=87)]), at=later(10))
    assert cooler is not seen
    assert (said_of(cooler, "GPUTemperature").status, said_of(cooler, "GPUTemperature").since) == (True, NOW)
    cool = judged(changed(cooler, gpu_devices=[gpu("0", temperature=84), gpu("1", temperature=87)]), at=later(20))
    over = said_of(cool, "GPUTemperature")
    assert (over.status, over.since, over.reason) == (False, later(20), "Over")
    assert cool.condition_devices == {}


def test_a_condition_says_the_same_while_values_move_so_that_nothing_is_written_for_them() -> None:
    seen = judged(online(gpu(temperature=91)), at=NOW)
    again = changed(seen, gpu_devices=[gpu(temperature=97)])
    assert judged(again, at=later(10)) is again


def test_only_a_gpu_that_is_lost_or_must_be_reset_keeps_new_replicas_away() -> None:
    lost, broken = judged(online(gpu(health="error")), at=NOW), judged(online(gpu(xid=48)), at=NOW)
    assert lost.fault is not None
    assert "no longer answers" in lost.fault
    assert broken.fault is not None
    assert "Xid 48" in broken.fault
    assert judged(online(gpu(temperature=99, ecc_errors=3, xid=63)), at=NOW).fault is None
    assert judged(changed(lost, gpu_devices=[gpu(health="ok")]), at=NOW).fault is None


@pytest.mark.parametrize(
    ("free", "total", "low"),
    [
        (511, None, True),
        (512, None, False),
        (600, 1_000, False),
        (500, 1_000, True),
        (999, 20_000, True),
        (1_000, 20_000, False),
        (10_239, 10_000_000, True),
        (10_240, 10_000_000, False),
        (None, 1_000, False),
    ],
)
def test_a_disk_is_low_below_a_twentieth_or_ten_gibibytes_or_in_any_case_half_a_gibibyte(
    free: int | None, total: int | None, low: bool
) -> None:
    assert ("DiskLow" in holding(judged(online(disk_free=free, disk_total=total), at=NOW))) is low


def test_a_disk_is_well_again_only_with_a_quarter_more() -> None:
    seen = judged(online(disk_free=400, disk_total=10_000), at=NOW)
    assert holding(judged(changed(seen, disk_free=600), at=NOW)) == {"DiskLow"}
    assert holding(judged(changed(seen, disk_free=640), at=NOW)) == set()


def beats(*skews: float) -> NodeObservation:
    seen = online()
    for skew in skews:
        seen = judged(conditions.timed(seen, later(skew), at=NOW), at=NOW)
    return seen


@pytest.mark.parametrize(
    ("skews", "reason"),
    [
        ((11,), None),
        ((11, 10, 11), None),
        ((11, 11), "Ahead"),
        ((-11, -3600), "Behind"),
        ((11, 11, 9), "Ahead"),
        ((11, 11, 5), "Over"),
        ((9, 9), None),
    ],
)
def test_a_clock_is_off_after_two_heartbeats_in_a_row_and_right_again_within_half_of_that(
    skews: tuple[float, ...], reason: str | None
) -> None:
    assert [each.reason for each in beats(*skews).conditions] == ([reason] if reason else [])


def test_a_heartbeat_without_a_time_says_nothing_of_the_clock() -> None:
    seen = online()
    assert conditions.timed(seen, None, at=NOW) is seen


@pytest.mark.parametrize(
    ("daemon", "release", "reason"),
    [
        ("0.1.0", "0.2.0", None),
        ("0.2.7", "0.1.0", None),
        ("0.1.0", "0.3.0", "DaemonOlder"),
        ("0.4.0", "0.2.9", "ControllerOlder"),
        ("1.0.0", "0.9.0", "ControllerOlder"),
        (None, "0.2.0", None),
        ("somebody else's", "0.2.0", None),
        ("9" * 100 + ".1", "0.2.0", None),
    ],
)
def test_releases_may_be_one_apart_and_who_is_older_is_said(
    daemon: str | None, release: str, reason: str | None
) -> None:
    seen = judged(online(daemon_version=daemon), at=NOW, release=release)
    assert [each.reason for each in seen.conditions] == ([reason] if reason else [])


def test_a_copied_identity_is_told_until_the_copy_has_been_silent_for_five_minutes() -> None:
    seen = judged(online(cloned_at=NOW), at=NOW)
    assert holding(judged(seen, at=later(299))) == {"IdentityCloned"}
    assert holding(judged(seen, at=later(300))) == set()


AWAY = NodeObservation(id="node-1", status=NodeStatus.OFFLINE, offline_since=NOW)


@pytest.mark.parametrize(
    ("seen", "replicas", "isolated", "seconds", "expected"),
    [
        (AWAY, True, False, 59, None),
        (AWAY, True, False, 60, True),
        (AWAY, True, True, 3600, None),
        (AWAY, False, False, 3600, False),
        (changed(AWAY, offline_since=None), True, False, 3600, None),
        (online(), True, False, 3600, False),
    ],
)
def test_a_node_is_lost_after_a_minute_with_replicas_and_never_while_the_controller_is_isolated(
    seen: NodeObservation, replicas: bool, isolated: bool, seconds: int, expected: bool | None
) -> None:
    assert conditions.lost(seen, replicas=replicas, isolated=isolated, at=later(seconds)) is expected


def test_a_lost_node_stays_lost_while_nothing_can_be_said_and_is_found_when_it_is_back() -> None:
    seen = judged(AWAY, at=later(60), lost=True)
    assert judged(seen, at=later(70), lost=None) is seen
    assert holding(judged(changed(seen, status=NodeStatus.ONLINE), at=later(80))) == set()
    assert holding(judged(seen, at=later(80), lost=False)) == set()


def test_of_a_node_that_is_away_what_was_known_last_stays() -> None:
    seen = judged(online(gpu(health="error")), at=NOW)
    away = changed(seen, status=NodeStatus.OFFLINE, gpu_devices=[])
    assert judged(away, at=later(10)) is away


def test_what_the_daemon_says_is_kept_until_it_says_it_no_longer() -> None:
    seen = judged(online(), at=NOW, reported=[report("DriverBroken"), report("EngineOld", False)])
    assert [each.type for each in seen.conditions] == ["DriverBroken"]
    assert judged(seen, at=later(1)) is seen
    after = judged(seen, at=later(2), reported=[])
    assert (said_of(after, "DriverBroken").status, said_of(after, "DriverBroken").since) == (False, later(2))


def test_a_daemon_cannot_say_what_is_judged_here() -> None:
    seen = online()
    assert judged(seen, at=NOW, reported=[report("IdentityCloned"), report("GPULost"), report("NodeLost")]) is seen


def test_what_is_over_is_shown_for_a_day() -> None:
    seen = judged(judged(online(), at=NOW, reported=[report()]), at=NOW, reported=[])
    assert judged(seen, at=NOW + timedelta(hours=23)) is seen
    assert judged(seen, at=NOW + timedelta(hours=24)).conditions == []


def test_a_node_that_floods_conditions_shows_a_bounded_number_and_hides_none_of_ours() -> None:
    seen = online(gpu(health="error"))
    for minute in range(5):
        flood = [report(f"T{minute}-{number}") for number in range(64)]
        seen = judged(seen, at=later(60 * minute), reported=flood)
        assert len(seen.conditions) == conditions.MOST
        assert "GPULost" in holding(seen)


_devices = st.lists(
    st.builds(
        gpu,
        st.sampled_from("0123"),
        temperature=st.none() | st.floats(-50, 200),
        memory_total=st.none() | st.integers(0, 100),
        memory_used=st.none() | st.integers(0, 100),
        ecc_errors=st.none() | st.integers(0, 2),
        xid=st.none() | st.sampled_from([0, 13, 63, 79]),
        health=st.sampled_from(["ok", "warning", "error", None]),
    ),
    max_size=4,
    unique_by=lambda device: device.device_id,
)


@given(
    st.lists(
        st.tuples(
            _devices,
            st.sampled_from([NodeStatus.ONLINE, NodeStatus.OFFLINE]),
            st.integers(0, 4000),
            st.none() | st.lists(st.builds(report, st.sampled_from("ABC"), st.booleans()), max_size=3),
            st.none() | st.booleans(),
        ),
        max_size=8,
    )
)
def test_whatever_a_node_does_its_conditions_are_one_a_type_stable_and_dated_by_their_last_turn(
    story: list[tuple[list[GpuDevice], NodeStatus, int, list[ConditionReport] | None, bool | None]],
) -> None:
    seen, at = online(), NOW
    for devices, status, seconds, said, is_lost in story:
        at += timedelta(seconds=seconds)
        before = {each.type: each for each in seen.conditions}
        seen = judged(
            changed(seen, gpu_devices=devices, status=status, disk_free=seconds), at=at, reported=said, lost=is_lost
        )
        types = [each.type for each in seen.conditions]
        assert len(types) == len(set(types))
        assert judged(seen, at=at, reported=said, lost=is_lost) is seen
        for each in seen.conditions:
            old = before.get(each.type)
            assert each.since == (old.since if old is not None and old.status is each.status else at)
        if status is NodeStatus.ONLINE:
            lost = any(device.health == "error" or device.xid == 79 for device in devices)
            assert ("GPULost" in holding(seen)) is lost
            assert "NodeLost" not in holding(seen)
