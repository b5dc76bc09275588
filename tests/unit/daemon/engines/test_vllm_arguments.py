"""How vLLM is told to spread and share, and what a model's files must hold."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.daemon.engines.vllm_support import CONFIG, adapter, model_of, vllm_order

from aiwm.daemon.engines.base import Address, EnginePlan, Ports
from aiwm.daemon.engines.vllm import VllmEngine
from aiwm.daemon.engines.vllm_arguments import cache_gib, memory_share, split
from aiwm.daemon.engines.vllm_model import look_into
from aiwm.protocol.errors import Invalid, Unavailable

GPU_COUNTS = st.integers(1, 64)


@given(GPU_COUNTS, st.none() | st.integers(1, 256))
def test_every_gpu_is_used_and_heads_are_never_cut(gpus: int, heads: int | None) -> None:
    chosen = split(gpus, heads)
    assert chosen.tensor * chosen.pipeline == gpus
    assert (heads or gpus) % chosen.tensor == 0
    better = [each for each in range(chosen.tensor + 1, gpus + 1) if gpus % each == 0 and (heads or gpus) % each == 0]
    assert better == []


@pytest.mark.parametrize(
    ("gpus", "heads", "tensor", "pipeline"), [(1, 32, 1, 1), (2, 32, 2, 1), (8, 28, 4, 2), (3, 32, 1, 3), (6, 32, 2, 3)]
)
def test_what_heads_do_not_divide_by_takes_layers_in_turn(gpus: int, heads: int, tensor: int, pipeline: int) -> None:
    chosen = split(gpus, heads)
    assert (chosen.tensor, chosen.pipeline) == (tensor, pipeline)


@given(st.integers(1, 2**20), st.lists(st.integers(1024, 2**20), min_size=1, max_size=8))
def test_no_gpu_is_taken_more_of_than_was_asked(asked: int, totals: list[int]) -> None:
    try:
        share = memory_share(asked, totals)
    except Invalid:
        assert asked * 100 < max(totals)
    else:
        assert 0.01 <= share <= 0.95
        assert all(share * total <= asked + 1e-6 for total in totals)


def test_too_little_of_a_gpu_is_refused_with_how_much_would_do() -> None:
    with pytest.raises(Invalid, match=r"815 MiB are less than 1 % of a GPU of 81559 MiB; .* 816 or more") as refused:
        memory_share(815, [81_559, 40_000])
    assert refused.value.code == "COMMAND_INVALID"
    assert memory_share(816, [81_559, 40_000]) == 0.01


@given(st.lists(st.integers(1, 81_559), min_size=1, max_size=20))
def test_what_fits_beside_each_other_still_fits_as_shares(asked: list[int]) -> None:
    total = 81_559
    if sum(asked) <= total * 0.95 and min(asked) >= total * 0.01:
        assert sum(memory_share(each, [total]) for each in asked) <= 0.95


def test_without_a_wish_it_takes_the_usual_share() -> None:
    assert memory_share(None, [81_559]) == 0.9


@pytest.mark.parametrize(("ram", "gib"), [(None, 4), (512, 1), (8192, 2), (65_536, 16)])
def test_a_cache_without_a_gpu_is_a_quarter_of_the_memory(ram: int | None, gib: int) -> None:
    assert cache_gib(ram) == gib


def plan(artifact: Path, engine: VllmEngine | None = None, **changes: Any) -> EnginePlan:
    made = engine or VllmEngine(None, image="vllm", gpu_memory=lambda _: 81_559)
    return made.prepare(vllm_order(**changes), artifact, artifact, Ports(8000, 1, 2), Address())


def test_a_model_one_folder_deeper_is_found(tmp_path: Path) -> None:
    model_of(tmp_path, llama__config_dot_json=CONFIG, README_dot_md="")
    assert look_into(tmp_path).path == tmp_path / "llama"


def test_a_model_that_sees_keeps_its_heads_in_its_language_part(tmp_path: Path) -> None:
    model_of(tmp_path, config_dot_json='{"text_config": {"num_attention_heads": 28}}')
    assert look_into(tmp_path).heads == 28


def test_only_the_first_part_of_a_gguf_in_parts_is_named(tmp_path: Path) -> None:
    model_of(tmp_path, **{"m-00001-of-00002_dot_gguf": "", "m-00002-of-00002_dot_gguf": "", "tokenizer_dot_json": ""})
    found = look_into(tmp_path)
    assert (found.path.name, found.tokenizer, found.config) == ("m-00001-of-00002.gguf", tmp_path, None)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"README_dot_md": ""}, "there is no config.json and no .gguf file in it"),
        ({"a_dot_gguf": "", "b_dot_gguf": ""}, "it holds several \\(a.gguf, b.gguf\\)"),
        ({"a__config_dot_json": CONFIG, "b__config_dot_json": CONFIG}, "it holds several \\(a, b\\)"),
        ({"config_dot_json": "{"}, "config.json is not JSON"),
        ({"config_dot_json": "[]"}, "config.json is not a JSON object"),
        ({"config_dot_json": "[" * 100_000}, "config.json is not JSON"),
        ({"config_dot_json": f'{{"n": {"9" * 5000}}}'}, "config.json is not JSON"),
        ({"config_dot_json": " " * 2**20 + "{}"}, "config.json has more than 1048576 bytes"),
        ({"config_dot_json": CONFIG, "p__adapter_config_dot_json": "[" * 100_000}, "adapter_config.json is not JSON"),
        ({"config_dot_json": CONFIG, "p__adapter_config_dot_json": " " * 2**20 + "{}"}, "adapter_config.json has more"),
        ({"adapter_config_dot_json": adapter(8)}, "it is an adapter without its base model"),
        ({"config_dot_json": CONFIG, "p__adapter_config_dot_json": "{}"}, "has no rank"),
        ({"config_dot_json": CONFIG, "p__adapter_config_dot_json": adapter(0)}, "has no rank"),
        ({"config_dot_json": CONFIG, "p__adapter_config_dot_json": adapter(1024)}, "has rank 1024"),
    ],
)
def test_files_vllm_cannot_serve_are_refused_with_what_to_upload(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        plan(model_of(tmp_path, **files))
    assert refused.value.code == "COMMAND_INVALID"


def test_two_adapters_of_one_name_are_refused(tmp_path: Path) -> None:
    model_of(tmp_path, config_dot_json=CONFIG, a__sql__adapter_config_dot_json=adapter(8))
    model_of(tmp_path, b__sql__adapter_config_dot_json=adapter(8))
    with pytest.raises(Invalid, match="two of its adapters are called sql"):
        look_into(tmp_path)


def test_code_of_a_model_runs_only_where_deployment_and_operator_say_so(tmp_path: Path) -> None:
    artifact, asked = model_of(tmp_path), ["--trust-remote-code"]
    with pytest.raises(Invalid, match="AIWM_TRUST_REMOTE_CODE=true") as refused:
        plan(artifact, engine_args=asked)
    assert refused.value.code == "COMMAND_INVALID"
    allowing = VllmEngine(None, image="vllm", remote_code=True)
    assert "--trust-remote-code" in plan(artifact, allowing, engine_args=asked).argv
    assert "--trust-remote-code" not in plan(artifact, allowing).argv


def test_a_chat_template_among_the_models_files_is_found_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "outside.jinja").write_text("")
    artifact = model_of(tmp_path / "m", config_dot_json=CONFIG, templates__chat_dot_jinja="{{ x }}")
    argv = plan(artifact, engine_args=["--chat-template", "templates/chat.jinja"]).argv
    assert f"--chat-template={artifact}/templates/chat.jinja" in argv
    (artifact / "link.jinja").symlink_to(tmp_path / "outside.jinja")
    for name in ("missing.jinja", "link.jinja"):
        with pytest.raises(Invalid, match="not among the model's files"):
            plan(artifact, engine_args=[f"--chat-template={name}"])


@pytest.mark.parametrize(
    "text", ["{{ x }}", "{{/../../secret", "{# né #}{{ x }}\n", "{{ x }}/../../secret", "{% set x = '\ud800' %}"]
)
def test_a_chat_templates_text_is_given_to_vllm_as_a_file_of_the_replicas_own(tmp_path: Path, text: str) -> None:
    artifact, workspace = model_of(tmp_path / "m"), tmp_path / "workspace"
    workspace.mkdir()
    made = VllmEngine(None, image="vllm")
    order = vllm_order(engine_args=[f"--chat-template={text}"])
    argv = made.prepare(order, artifact, workspace, Ports(8000, 1, 2), Address()).argv
    assert [each for each in argv if each.startswith("--chat-template")] == [
        f"--chat-template={workspace}/chat_template.jinja"
    ]
    with (workspace / "chat_template.jinja").open(newline="", encoding="utf-8") as file:
        assert file.read() == text.replace("\ud800", "?")


def test_what_the_deployment_says_itself_is_not_said_twice(tmp_path: Path) -> None:
    artifact = model_of(tmp_path, config_dot_json=CONFIG, sql__adapter_config_dot_json=adapter(16))
    own = ["--pipeline-parallel-size=2", "--max-lora-rank=64", "--runner=generate"]
    argv = plan(artifact, task_type="embedding", gpu_device_ids=["0", "1"], engine_args=own).argv
    assert [each for each in argv if each.startswith(("--tensor", "--pipeline", "--max-lora", "--runner"))] == own


def test_memory_of_a_gpu_whose_size_is_not_known_cannot_be_shared(tmp_path: Path) -> None:
    unknowing = VllmEngine(None, image="vllm")
    changes = {"gpu_device_ids": ["0"], "resources": {"gpuMemory": 1000}}
    with pytest.raises(Unavailable, match="how much memory they have is not known") as refused:
        plan(model_of(tmp_path), unknowing, **changes)
    assert refused.value.code == "GPU_NOT_AVAILABLE"


def test_no_memory_of_a_gpu_is_as_if_none_was_named(tmp_path: Path) -> None:
    artifact, resources = model_of(tmp_path), {"gpuMemory": 0}
    for engine in (None, VllmEngine(None, image="vllm")):
        argv = plan(artifact, engine, gpu_device_ids=["0"], resources=resources).argv
        assert "--gpu-memory-utilization=0.9" in argv


def test_an_order_with_an_image_runs_there_also_where_vllm_is_installed(tmp_path: Path) -> None:
    (tmp_path / "vllm").write_text("")
    artifact, installed = model_of(tmp_path / "m"), VllmEngine(tmp_path / "vllm", image="default")
    own, other = plan(artifact, installed), plan(artifact, installed, image="mine:1")
    assert (own.image, own.argv[0], other.image, other.argv[0]) == (None, str(tmp_path / "vllm"), "mine:1", "vllm")
    assert "PATH" not in other.environment
    assert plan(artifact).image == "vllm"


def test_a_command_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="check AIWM_VLLM_SERVER"):
        plan(model_of(tmp_path), VllmEngine(tmp_path / "nowhere"))


def test_an_older_vllm_is_told_to_embed_in_its_own_words(tmp_path: Path) -> None:
    binary = tmp_path / "bin/vllm"
    (tmp_path / "lib/python3.12/site-packages/vllm-0.8.5.dist-info").mkdir(parents=True)
    binary.parent.mkdir()
    binary.write_text("")
    assert "--task=embed" in plan(model_of(tmp_path / "m"), VllmEngine(binary), task_type="embedding").argv


def test_a_deployment_may_size_its_own_cache_but_not_ask_for_the_network(tmp_path: Path) -> None:
    given_variables = {"VLLM_CPU_KVCACHE_SPACE": "9", "HF_HUB_OFFLINE": "0"}
    found = plan(model_of(tmp_path), environment_variables=given_variables).environment
    assert (found["VLLM_CPU_KVCACHE_SPACE"], found["HF_HUB_OFFLINE"]) == ("9", "1")
