"""Models as folders of small files, and orders for them."""

import json
from pathlib import Path
from typing import Any

from tests.daemon_support import order

from aiwm.protocol.node_channel import Artifact, DeployCommand
from aiwm.protocol.states import EngineName

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "num_attention_heads": 32})


def model_of(folder: Path, **files: str) -> Path:
    """`files` are by path, with `__` for `/` and `_dot_` for `.`; a Llama with 32 heads when none is named."""
    for name, content in (files or {"config_dot_json": CONFIG, "model_dot_safetensors": ""}).items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def adapter(rank: object) -> str:
    return json.dumps({"peft_type": "LORA", "r": rank})


def vllm_order(task_type: str = "llm", **changes: Any) -> DeployCommand:
    artifact = Artifact(
        model_id="model-1", digest="0" * 64, name="m", framework="safetensors", task_type=task_type, files=[]
    )
    return order(artifact, engine=EngineName.VLLM, **changes)
