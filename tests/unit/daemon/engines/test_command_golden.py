"""The exact commands that start engines, equal to `golden/commands/NAME.txt`, which the docs quote.

`AIWM_WRITE_GOLDEN=1` writes them anew, for a reader of the difference to judge.
"""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.daemon_support import order
from tests.unit.daemon.engines.vllm_support import CONFIG, adapter, model_of, vllm_order

from aiwm.daemon.engines.base import Address, EnginePlan, Ports
from aiwm.daemon.engines.custom import CustomEngine
from aiwm.daemon.engines.triton import TritonEngine
from aiwm.daemon.engines.vllm import VllmEngine
from aiwm.protocol.errors import Invalid
from aiwm.protocol.node_channel import Artifact
from aiwm.protocol.states import EngineName

GOLDEN = Path(__file__).parent / "golden/commands"
DOCS = Path(__file__).parents[4] / "docs/engines.md"
IMAGE = "vllm/vllm-openai:v0.11.0"
TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:24.10-py3"
A100_MIB = 81_559
PORTS = Ports(8000, 8001, 8002)

ONE, TWO = {"gpu_device_ids": ["GPU-1"]}, {"gpu_device_ids": ["GPU-1", "GPU-2"]}
PLAIN: dict[str, str] = {}
TUNED = ["--max-model-len", "32768", "--enable-auto-tool-choice", "--tool-call-parser=hermes"]

VLLM: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "vllm_one_gpu": (PLAIN, ONE),
    "vllm_two_gpus": (PLAIN, TWO),
    "vllm_three_gpus": (PLAIN, {"gpu_device_ids": ["GPU-1", "GPU-2", "GPU-3"]}),
    "vllm_part_of_a_gpu": (PLAIN, {**ONE, "resources": {"gpuCount": 1, "gpuMemory": 24_000}}),
    "vllm_adapters": (
        {
            "config_dot_json": CONFIG,
            "model_dot_safetensors": "",
            "adapters__sql__adapter_config_dot_json": adapter(16),
            "adapters__support__adapter_config_dot_json": adapter(48),
        },
        ONE,
    ),
    "vllm_embedding": (PLAIN, {**ONE, "task_type": "embedding"}),
    "vllm_gguf": ({"m-Q4_K_M_dot_gguf": "", "tokenizer_dot_json": "{}", "config_dot_json": CONFIG}, ONE),
    "vllm_quantized": (PLAIN, {**ONE, "engine_args": ["--quantization", "awq_marlin", "--kv-cache-dtype=fp8"]}),
    "vllm_arguments": (PLAIN, {**TWO, "engine_args": TUNED, "environment_variables": {"NCCL_DEBUG": "INFO"}}),
    "vllm_processor": (PLAIN, {"resources": {"ram": 16_384}}),
}


def shown(plan: EnginePlan, folder: Path) -> str:
    """A plan as a reader sees it: the folders below `folder` are where they are usually."""

    def plain(text: str) -> str:
        for name, place in (("model", "/model"), ("vllm", "/opt/vllm"), ("tritonserver", "/opt/tritonserver")):
            text = text.replace(f"{folder}/{name}", place)
        return text.replace(f"{folder}/repository", "/repository")

    words = [shlex.quote(plain(each)) for each in plan.argv]
    lines = [f"image {plan.image}" + (", its entrypoint replaced" if plan.entrypoint else "")] if plan.image else []
    lines += [f"{name}={plain(value)}" for name, value in sorted(plan.environment.items())]
    lines += [" \\\n    ".join(words)] if words else []
    lines += [f"ready: {' '.join(plan.ready)}"]
    lines += [f"port {each.port}" + (f" to {each.inside}" if each.inside else "") for each in plan.listens]
    return "\n".join([*lines, ""])


def check(name: str, found: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("AIWM_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text()


def planned(case: str, folder: Path, engine: VllmEngine) -> str:
    files, changes = VLLM[case]
    model = model_of(folder / "model", **files)
    return shown(engine.prepare(vllm_order(**changes), model, folder, PORTS, Address()), folder)


@pytest.mark.parametrize("case", VLLM)
def test_vllm_in_a_container_is_started_by_exactly_this(case: str, tmp_path: Path) -> None:
    engine = VllmEngine(None, image=IMAGE, gpu_memory=lambda _: A100_MIB)
    check(f"{case}_image", planned(case, tmp_path, engine))


@pytest.mark.parametrize("case", VLLM)
def test_vllm_as_a_process_is_started_by_exactly_this(case: str, tmp_path: Path) -> None:
    binary = tmp_path / "vllm/bin/vllm"
    binary.parent.mkdir(parents=True)
    binary.write_text("")
    check(f"{case}_process", planned(case, tmp_path, VllmEngine(binary, gpu_memory=lambda _: A100_MIB)))


def triton_plan(folder: Path, engine: TritonEngine, **changes: Any) -> EnginePlan:
    model = model_of(folder / "model", model_dot_onnx="")
    artifact = Artifact(model_id="model-1", digest="0" * 64, name="m", framework="onnx", files=[])
    made = order(artifact, engine=EngineName.TRITON, **changes)
    return engine.prepare(made, model, folder, PORTS, Address())


@pytest.mark.parametrize(("name", "changes"), [("triton_one_gpu", ONE), ("triton_processor", {})])
def test_triton_in_a_container_is_started_by_exactly_this(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    engine = TritonEngine(image=TRITON_IMAGE)
    check(f"{name}_image", shown(triton_plan(tmp_path, engine, **changes), tmp_path))


def test_triton_as_a_process_is_started_by_exactly_this(tmp_path: Path) -> None:
    home = tmp_path / "tritonserver"
    for each in ("bin", "backends", "lib"):
        (home / each).mkdir(parents=True)
    (home / "bin/tritonserver").write_text("")
    engine = TritonEngine(home / "bin/tritonserver", tmp_path)
    tuned = {**TWO, "engine_args": ["--model-load-thread-count", "4"]}
    check("triton_two_gpus_process", shown(triton_plan(tmp_path, engine, **tuned), tmp_path))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("custom_image", {"image": "ghcr.io/acme/ranker:2", "port": 8080, "health_path": "/healthz"}),
        ("custom_command", {"engine_args": ["/opt/ranker/bin/serve", "--workers=2"]}),
    ],
)
def test_a_custom_engine_is_started_by_exactly_this(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    made = order(engine=EngineName.CUSTOM, **changes)
    plan = CustomEngine(commands=True).prepare(made, tmp_path / "model", tmp_path, PORTS, Address())
    check(name, shown(plan, tmp_path))


def test_a_node_that_runs_images_only_runs_no_command(tmp_path: Path) -> None:
    made = order(engine=EngineName.CUSTOM, engine_args=["/bin/sh"])
    with pytest.raises(Invalid, match="this node runs images only; set image"):
        CustomEngine(commands=False).prepare(made, tmp_path / "model", tmp_path, PORTS, Address())


def test_every_golden_file_belongs_to_a_case() -> None:
    cases = {f"{case}_{form}" for case in VLLM for form in ("image", "process")}
    triton = {"triton_one_gpu_image", "triton_processor_image", "triton_two_gpus_process"}
    assert {path.stem for path in GOLDEN.iterdir()} == cases | triton | {"custom_image", "custom_command"}


def test_the_docs_quote_the_commands_as_they_are() -> None:
    page = DOCS.read_text()
    quoted = ("vllm_one_gpu_image", "vllm_two_gpus_process", "vllm_part_of_a_gpu_image", "vllm_adapters_process")
    others = ("vllm_embedding_image", "vllm_gguf_image", "vllm_quantized_image", "vllm_processor_process")
    triton = ("triton_one_gpu_image", "triton_two_gpus_process")
    for name in (*quoted, *others, *triton, "custom_image", "custom_command"):
        assert (GOLDEN / f"{name}.txt").read_text() in page, name
