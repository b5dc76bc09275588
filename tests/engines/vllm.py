"""vLLM on the CPU with a tiny model of random weights, as `scripts/engines` make both; AIWM_TEST_VLLM names another
place of its environment."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.servers import free_port, stop

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    # GiB, the least it takes; without it it would take most of the machine.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
# Compiling needs a C++ compiler and another 15 s.
ARGUMENTS = ["--max-model-len", "1024", "--enforce-eager"]

_READY_SECONDS = 180.0
_END_SECONDS = 20.0


def vllm_needed() -> Path:
    """The environment that has vLLM; skips the test where there is none."""
    venv = Path(os.environ.get("AIWM_TEST_VLLM") or ROOT / ".cache/vllm")
    if not (venv / ".aiwm-vllm").exists():
        pytest.skip("no vllm: make test-engines")
    return venv


def tiny_llm() -> Path:
    """The folder of `model`, which also serves embeddings with `--runner pooling`, and `adapter`, a LoRA adapter."""
    venv = vllm_needed()
    script = ROOT / "scripts/engines/tiny_llm.py"
    folder = ROOT / ".cache/engines/tiny"
    made = folder / "adapter/adapter_config.json"
    if not made.exists() or made.stat().st_mtime < script.stat().st_mtime:
        subprocess.run([str(venv / "bin/python"), str(script), str(folder)], check=True, capture_output=True)
    return folder


@contextmanager
def serving(model: Path, *arguments: str, log: Path) -> Iterator[str]:
    """`vllm serve` as a process: the address at which it is ready, until the context is left."""
    port = free_port()
    command = [str(vllm_needed() / "bin/vllm"), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | ENVIRONMENT
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, *ARGUMENTS, *arguments], stdout=output, stderr=output, env=environment, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + _READY_SECONDS
    try:
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"vLLM did not become ready:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)
        yield url
    finally:
        stop(process, _END_SECONDS)
        # Its tracker of resources would stay for a while.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
