"""vLLM on the CPU, as `scripts/engines` makes it, with a tiny model of random weights; AIWM_TEST_VLLM names another
place of its environment."""

import os
import subprocess
from pathlib import Path

import pytest

from aiwm.assets import TINY_LLM

ROOT = Path(__file__).resolve().parents[2]


def vllm_needed() -> Path:
    """The environment that has vLLM; skips the test where there is none."""
    venv = Path(os.environ.get("AIWM_TEST_VLLM") or ROOT / ".cache/vllm")
    if not (venv / ".aiwm-vllm").exists():
        pytest.skip("no vllm: make test-engines")
    return venv


def tiny_llm() -> Path:
    """The folder of `model`, which also serves embeddings with `--runner pooling`, and `adapter`, a LoRA adapter."""
    venv = vllm_needed()
    folder = ROOT / ".cache/engines/tiny"
    made = folder / "adapter/adapter_config.json"
    if not made.exists() or made.stat().st_mtime < TINY_LLM.stat().st_mtime:
        subprocess.run([str(venv / "bin/python"), str(TINY_LLM), str(folder)], check=True, capture_output=True)
    return folder
