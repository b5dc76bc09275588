"""No message of a node weighs what would end its connection, whatever engines write and however many there are."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon import keeper
from aiwm.daemon.enginelog import read_log
from aiwm.daemon.sizes import (
    MOST_INVENTORY_BYTES,
    MOST_LOG_BYTES,
    MOST_MESSAGE_BYTES,
    fitted,
    last_lines,
    weight,
)
from aiwm.daemon.supervisor import MOST_REPLICAS
from aiwm.protocol.node_channel import (
    LOG_LINES,
    MAX_MESSAGE_BYTES,
    DeploymentLogs,
    EngineNumbers,
    Metrics,
    NodeRegister,
    ReplicaReport,
    ReplicaUsage,
)
from aiwm.protocol.resources.nodes import GpuDevice
from aiwm.protocol.states import ReplicaState


def replica(number: int, message: str | None) -> ReplicaReport:
    return ReplicaReport(
        deployment_id=f"deploy-{number:026}",
        replica_id=f"replica-{number:026}",
        state=ReplicaState.RUNNING,
        endpoint="http://10.0.0.1:12345",
        container_name=f"aiwm-{number:060}",
        gpu_device_ids=["0", "1"],
        message=message,
    )


@pytest.mark.parametrize("message", [None, "serving", "x" * 1000, "漢" * 1000, "\N{PILE OF POO}" * 1000])
@pytest.mark.parametrize("count", [1, 100, 1024])
def test_an_inventory_names_every_replica_and_stays_below_the_limit(count: int, message: str | None) -> None:
    told = fitted([replica(number, message) for number in range(count)])
    assert [each.replica_id for each in told] == [f"replica-{number:026}" for number in range(count)]
    assert weight(NodeRegister(replicas=told).to_wire()) < MAX_MESSAGE_BYTES * 7 // 10
    assert all(each.state is ReplicaState.RUNNING and each.endpoint for each in told)


def test_texts_stay_whole_as_long_as_there_is_room() -> None:
    small = [replica(number, "y" * 900) for number in range(100)]
    assert fitted(small) == small
    cut = fitted([replica(number, "y" * 900) for number in range(1024)])
    assert {len(each.message or "") for each in cut} == {200}


def test_ids_as_long_as_they_may_be_still_fit() -> None:
    worst = [
        ReplicaReport(
            deployment_id="d" * 128,
            replica_id="r" * 128,
            state=ReplicaState.UNHEALTHY,
            endpoint="e" * 100,
            container_name="c" * 128,
            gpu_device_ids=[str(each) for each in range(16)],
            message="m" * 1000,
        )
    ] * 1024
    assert sum(weight(each.to_wire()) + 1 for each in fitted(worst)) <= MOST_INVENTORY_BYTES


def test_a_full_nodes_metrics_fit_whatever_its_engines_count() -> None:
    counted = {name: 2**53 for name in EngineNumbers.model_fields if name != "cache_used"}
    usage = ReplicaUsage(
        replica_id="r" * 128,
        cpu_utilization=9_999_999.9,
        ram_used=2**40,
        gpu_memory_used=2**40,
        engine=EngineNumbers(**counted, cache_used=100 / 3),
    )
    gpus = [GpuDevice(device_id=f"GPU-{each:040}", model="m" * 60, uuid="u" * 60, health="ok") for each in range(256)]
    metrics = Metrics(gpu_devices=gpus, cpu_utilization=100 / 3, replicas=[usage] * MOST_REPLICAS)
    assert weight(metrics.to_wire()) < MOST_MESSAGE_BYTES


@given(st.text(max_size=3000))
def test_last_lines_are_the_end_of_what_was_written_and_fit_the_wire(text: str) -> None:
    lines = last_lines(text, most=500)
    whole = text.splitlines()
    assert lines == [each[:4096] for each in whole[len(whole) - len(lines) :]]
    assert sum(weight(each) + 1 for each in lines) <= 500
    DeploymentLogs(deployment_id="d", replica_id="r", lines=lines)


def test_two_hundred_lines_are_kept_and_a_line_without_end_is_cut() -> None:
    assert last_lines("".join(f"line {number}\n" for number in range(1000)))[0] == f"line {1000 - LOG_LINES}"
    (line,) = last_lines("x" * 60_000)
    assert len(line) == 4096
    heavy = last_lines("\n".join(["\N{PILE OF POO}" * 4096] * 300))
    assert weight(heavy) <= MOST_LOG_BYTES
    assert last_lines("") == []


@pytest.mark.parametrize("junk", [b"\x00" * 400_000, b"\xff" * 400_000, b"\x00\n" * 200_000, b"text\n" * 80_000])
def test_output_that_is_no_text_is_answered_in_pieces_that_fit(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / keeper.LOG).write_bytes(junk)
    last = read_log(tmp_path, tail=10_000, offset=None)
    assert last.next_offset == len(junk)
    assert 0 < len(json.dumps(last.text)) < MAX_MESSAGE_BYTES * 6 // 10
    offset = 0
    while offset < len(junk):
        piece = read_log(tmp_path, tail=0, offset=offset)
        assert piece.next_offset > offset
        assert len(json.dumps(piece.text)) < MAX_MESSAGE_BYTES * 6 // 10
        offset = piece.next_offset
    assert offset == len(junk)
