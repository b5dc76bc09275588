"""Where replicas go: never where they may not, always to the node that keeps the most devices free elsewhere."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import (
    ELSEWHERE,
    HERE,
    SHARES,
    a_fleet,
    a_node,
    a_report,
    a_wish,
    overfull,
    some_nodes,
    some_wish,
    tried,
)

from aiwm.deployments.claims import Claim, standing
from aiwm.deployments.placement import Fleet, Gpu, NodeFacts, engine_for, place, profile_for, why_nowhere
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
    assert "triton" in node.engines if wish.image is None else "docker" in node.launchers
    assert wish.pinned_node_id in (None, node.node_id)
    assert wish.node_selector.items() <= node.labels.items()
    assert len(placement.gpu_device_ids) == need_of(wish).gpu_count
    assert set(placement.gpu_device_ids) <= {gpu.device_id for gpu in node.gpus}


@tried
@given(wishes=st.lists(some_wish(), max_size=12), nodes=some_nodes([]))
def test_no_more_of_a_device_is_given_out_than_there_is(wishes: list[Wish], nodes: list[NodeFacts]) -> None:
    fleet = a_fleet(*nodes)
    for number, wish in enumerate(wishes):
        placement, _ = place(need_of(wish), fleet)
        if placement is not None:
            share = need_of(wish).gpu_share
            fleet.take(placement.node_id, list(placement.gpu_device_ids), f"replica-{number}", share)
            assert not overfull(fleet)


@tried
@given(claims=st.lists(st.tuples(st.integers(0, 9), SHARES), unique_by=lambda each: each[0]))
def test_the_claims_that_stand_fit_and_every_other_has_an_older_one_in_its_way(
    claims: list[tuple[int, int | None]],
) -> None:
    held = [Claim(str(age), memory or None) for age, memory in claims]
    found = standing(held, 16_384)
    standing_claims = [each for each in held if each.replica_id in found]
    fleet = a_fleet(a_node())
    fleet.taken["node-1", "0"] = tuple(standing_claims)
    assert not overfull(fleet)
    assert standing(standing_claims, 16_384) == found, "who goes changes nothing for those who stay"
    for each in held:
        if each.replica_id not in found:
            older = [one for one in standing_claims if one.replica_id < each.replica_id]
            fleet.taken["node-1", "0"] = (*older, each)
            assert overfull(fleet)


def shared(memory: int, **more: object) -> Wish:
    return a_wish(resources=Resources.model_validate({"gpu_memory": memory, **more}))


def placed(fleet: Fleet, wish: Wish) -> tuple[str, tuple[str, ...]] | None:
    """Where it goes; the devices are taken."""
    placement, _ = place(need_of(wish), fleet)
    if placement is None:
        return None
    devices = placement.gpu_device_ids
    fleet.take(placement.node_id, list(devices), f"replica-{sum(fleet.load.values())}", need_of(wish).gpu_share)
    return placement.node_id, devices


def test_parts_of_gpus_gather_where_they_still_fit() -> None:
    fleet = a_fleet(a_node(gpus=3))
    assert placed(fleet, shared(8_000)) == ("node-1", ("0",))
    assert placed(fleet, shared(8_000)) == ("node-1", ("1",))
    assert placed(fleet, shared(5_000)) == ("node-1", ("0",))
    assert placed(fleet, shared(2_000)) == ("node-1", ("0",)), "the fullest that has room for it"
    assert placed(fleet, shared(4_000)) == ("node-1", ("1",))
    assert placed(fleet, a_wish()) == ("node-1", ("2",)), "a whole one is one of which nobody has a part"
    assert placed(fleet, shared(4_000)) is None
    assert placed(fleet, shared(564, gpu_count=2)) == ("node-1", ("0", "1"))


def test_a_gpu_in_use_is_shared_before_a_smaller_one_that_nobody_uses() -> None:
    small = replace(a_node("node-1"), gpus=(Gpu("0", 8_192),))
    fleet = a_fleet(small, a_node("node-2"))
    assert placed(fleet, shared(8_000)) == ("node-2", ("0",))
    assert placed(fleet, shared(1_000)) == ("node-2", ("0",))


def test_a_plan_says_what_part_of_which_gpu_it_would_take() -> None:
    placement, _ = place(need_of(shared(8_000)), a_fleet(a_node()))
    assert placement is not None
    assert placement.reason == "name of node-1 fits best: 8000 MiB of the free 15564 MiB of GPU 0"


def test_on_the_cpu_no_part_of_a_gpu_is_taken() -> None:
    fleet = a_fleet(a_node(gpus=0))
    assert placed(fleet, shared(8_000, gpu_count=0)) == ("node-1", ())


@pytest.mark.parametrize("profile", HardwareProfile)
def test_memory_of_a_gpu_without_a_number_is_of_one_whatever_the_profile(profile: HardwareProfile) -> None:
    asks = Resources(gpu_memory=8_000)
    assert placed(a_fleet(a_node(gpus=3)), a_wish(resources=asks, hardware_profile=profile)) == ("node-1", ("0",))


def test_an_image_goes_to_a_node_that_runs_containers() -> None:
    bare, able = a_node("node-1"), a_node("node-2", launchers=frozenset({"docker"}), engines=frozenset())
    wish = a_wish(image="registry.local/triton:1")
    assert placed(a_fleet(bare, able), wish) == ("node-2", ("0",))
    _, rejected = place(need_of(wish), a_fleet(bare))
    assert [each.reason for each in rejected] == ["it runs no containers, which an image needs"]


def test_a_custom_engine_in_an_image_asks_for_containers_and_a_command_for_the_operators_leave() -> None:
    containers = a_node("node-1", launchers=frozenset({"docker"}), engines=frozenset({"triton"}))
    commands = a_node("node-2", launchers=frozenset({"process"}), engines=frozenset({"custom"}))
    fleet = a_fleet(containers, commands)
    assert placed(fleet, a_wish(engine=EngineName.CUSTOM, image="mine:1")) == ("node-1", ("0",))
    assert placed(fleet, a_wish(engine=EngineName.CUSTOM, engine_args=["serve"])) == ("node-2", ("0",))


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
        (
            a_node(),
            {"resources": Resources(gpu_memory=15_565)},
            "it has 0 GPUs with 15565 MiB to spare of the 1 needed",
        ),
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


def test_who_asks_for_gpu_memory_asks_for_a_gpu() -> None:
    assert profile_for(Resources(gpu_memory=1), a_fleet(a_node(gpus=0)), HERE) is HardwareProfile.GPU


def test_devices_of_other_organizations_do_not_shape_the_profile() -> None:
    fleet = a_fleet(a_node("node-1", gpus=0), a_node("node-2", gpus=4, org_id=ELSEWHERE))
    assert profile_for(Resources(), fleet, HERE) is HardwareProfile.CPU
