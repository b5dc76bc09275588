"""Where replicas go: never where they may not, always to the node that keeps the most devices free elsewhere."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import (
    ELSEWHERE,
    HERE,
    a_fleet,
    a_node,
    a_report,
    a_wish,
    some_nodes,
    some_wish,
    tried,
)

from aiwm.deployments.placement import Gpu, NodeFacts, engine_for, place, profile_for, why_nowhere
from aiwm.deployments.planner import need_of
from aiwm.deployments.records import Wish
from aiwm.protocol.resources.deployments import Resources
from aiwm.protocol.states import EngineName, HardwareProfile


@tried
@given(wish=some_wish(), nodes=some_nodes([]))
def test_a_replica_is_only_placed_where_it_may_run(wish: Wish, nodes: list[NodeFacts]) -> None:
    placement, rejected = place(need_of(wish), a_fleet(*nodes))
    if placement is None:
        seen = [each for each in nodes if each.org_id in (None, HERE)]
        assert {each.node_id for each in rejected} == {each.node_id for each in seen}
        return
    node = next(each for each in nodes if each.node_id == placement.node_id)
    assert node.reachable
    assert node.worker
    assert node.schedulable
    assert node.org_id in (None, HERE)
    assert "triton" in node.engines
    assert wish.pinned_node_id in (None, node.node_id)
    assert wish.node_selector.items() <= node.labels.items()
    assert len(placement.gpu_device_ids) == need_of(wish).gpu_count
    assert set(placement.gpu_device_ids) <= {gpu.device_id for gpu in node.gpus}


@tried
@given(wishes=st.lists(some_wish(), max_size=12), nodes=some_nodes([]))
def test_no_device_is_given_to_two(wishes: list[Wish], nodes: list[NodeFacts]) -> None:
    fleet = a_fleet(*nodes)
    given_out: list[tuple[str, str]] = []
    for number, wish in enumerate(wishes):
        placement, _ = place(need_of(wish), fleet)
        if placement is not None:
            fleet.take(placement.node_id, list(placement.gpu_device_ids), f"replica-{number}")
            given_out += [(placement.node_id, device) for device in placement.gpu_device_ids]
    assert len(given_out) == len(set(given_out))


@pytest.mark.parametrize(
    ("node", "changes", "why"),
    [
        (a_node(runs=None), {}, "it is not connected"),
        (a_node(worker=False), {}, "it has no worker role"),
        (a_node(schedulable=False), {}, "it is cordoned or in maintenance"),
        (a_node(fault="GPU 0 no longer answers"), {}, "GPU 0 no longer answers"),
        (a_node(), {"pinned_node_id": "node-2"}, "the deployment is pinned to another node"),
        (a_node(), {"node_selector": {"zone": "a"}}, "its labels do not match"),
        (a_node(), {"engine": EngineName.VLLM}, "it cannot run vllm"),
        (a_node(gpus=0), {}, "it has 0 fitting free GPUs of the 1 needed"),
        (a_node(gpus=1), {"hardware_profile": HardwareProfile.MULTI_GPU}, "it has 1 fitting free GPUs of the 2 needed"),
        (a_node(), {"resources": Resources(gpu_memory=20_000)}, "it has 0 fitting free GPUs of the 1 needed"),
        (
            a_node(ram_free=100),
            {"resources": Resources(ram=200)},
            "it has 100 MiB of free memory of the 200 needed",
        ),
    ],
)
def test_each_objection_is_said(node: NodeFacts, changes: dict[str, object], why: str) -> None:
    placement, rejected = place(need_of(a_wish(**changes)), a_fleet(node))
    assert placement is None
    assert [each.reason for each in rejected] == [why]


def test_nodes_of_other_organizations_are_not_even_mentioned() -> None:
    placement, rejected = place(need_of(a_wish()), a_fleet(a_node(org_id=ELSEWHERE)))
    assert (placement, rejected) == (None, [])


def test_a_device_that_does_not_tell_its_memory_does_not_count_as_large_enough() -> None:
    node = replace(a_node(), gpus=(Gpu("0", None),))
    assert place(need_of(a_wish(resources=Resources(gpu_memory=1))), a_fleet(node))[0] is None
    assert place(need_of(a_wish()), a_fleet(node))[0] is not None


def test_the_node_with_the_fewest_free_devices_that_still_fits_is_taken() -> None:
    placement, _ = place(need_of(a_wish()), a_fleet(a_node("node-1", gpus=4), a_node("node-2", gpus=1)))
    assert placement is not None
    assert placement.node_id == "node-2"


def test_without_devices_the_least_loaded_node_is_taken() -> None:
    fleet = a_fleet(a_node("node-1", gpus=0), a_node("node-2", gpus=0, runs=[a_report("other")]))
    fleet.take("node-1", [], "replica-0")
    placement, _ = place(need_of(a_wish(hardware_profile=HardwareProfile.CPU)), fleet)
    assert placement is not None
    assert placement.node_id == "node-2"


def test_why_nowhere_says_the_most_frequent_objection_first() -> None:
    assert why_nowhere([]) == "no node is registered; join one first"
    nodes = (a_node("node-1", runs=None), a_node("node-2", worker=False), a_node("node-3", runs=None))
    _, rejected = place(need_of(a_wish()), a_fleet(*nodes))
    assert why_nowhere(rejected) == "no node fits: 2 x it is not connected; 1 x it has no worker role"


@pytest.mark.parametrize(
    ("framework", "task", "engine"),
    [
        ("safetensors", "custom", EngineName.VLLM),
        ("gguf", "custom", EngineName.VLLM),
        ("pytorch", "llm", EngineName.VLLM),
        ("triton", "cv", EngineName.TRITON),
        ("onnx", "asr", EngineName.TRITON),
        ("pytorch", "tts", EngineName.TRITON),
        ("tensorflow", "nlp", EngineName.TRITON),
        ("custom", "custom", EngineName.CUSTOM),
    ],
)
def test_the_engine_follows_from_framework_and_task(framework: str, task: str, engine: EngineName) -> None:
    assert engine_for(framework, task) is engine


@pytest.mark.parametrize(
    ("count", "gpus", "profile"),
    [
        (None, 0, HardwareProfile.CPU),
        (None, 1, HardwareProfile.GPU),
        (0, 4, HardwareProfile.CPU),
        (1, 0, HardwareProfile.GPU),
        (2, 0, HardwareProfile.MULTI_GPU),
        (8, 0, HardwareProfile.MULTI_GPU),
    ],
)
def test_the_profile_follows_from_what_is_asked_and_what_is_there(
    count: int | None, gpus: int, profile: HardwareProfile
) -> None:
    assert profile_for(Resources(gpu_count=count), a_fleet(a_node(gpus=gpus)), HERE) is profile


def test_devices_of_other_organizations_do_not_shape_the_profile() -> None:
    fleet = a_fleet(a_node("node-1", gpus=0), a_node("node-2", gpus=4, org_id=ELSEWHERE))
    assert profile_for(Resources(), fleet, HERE) is HardwareProfile.CPU
