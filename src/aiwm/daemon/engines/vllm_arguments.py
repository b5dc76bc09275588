"""The arguments vLLM is started with, from what was ordered, what the model is and what the machine has. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiwm.daemon.engines.vllm_model import Adapter, ModelFiles
from aiwm.protocol.engine_arguments import PARALLEL
from aiwm.protocol.engine_options import Option
from aiwm.protocol.errors import Invalid

_USUAL_SHARE = 0.9
# The driver and CUDA itself need the rest, also when all of a GPU was asked for.
_LARGEST_SHARE = 0.95
_LEAST_PERCENT = 1
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_MIB_IN_GIB = 1024
_USUAL_CACHE_GIB = 4
_FIRST_WITH_RUNNER = (0, 10)


@dataclass(frozen=True, slots=True)
class Split:
    """Over how many GPUs each layer is spread, and over how many groups of those the layers."""

    tensor: int
    pipeline: int


def split(gpus: int, heads: int | None) -> Split:
    """Each layer over as many GPUs as its attention heads divide by; what is left over takes layers in turn."""
    tensor = max(each for each in range(1, gpus + 1) if gpus % each == 0 and (heads or gpus) % each == 0)
    return Split(tensor, gpus // tensor)


def memory_share(asked: int | None, totals: Sequence[int]) -> float:
    """Which part of each GPU is taken for `asked` MiB, never more than asked where they differ in size.

    Raises `Invalid` for so little that nothing could be done with it.
    """
    if asked is None or not totals:
        return _USUAL_SHARE
    least = -(-max(totals) * _LEAST_PERCENT // 100)
    if asked < least:
        raise Invalid(
            f"cannot serve the model: {asked} MiB are less than {_LEAST_PERCENT} % of a GPU of {max(totals)} MiB; "
            f"raise resources.gpuMemory to what the model needs, {least} or more",
            code="COMMAND_INVALID",
        )
    return min(asked * 1000 // max(totals) / 1000, _LARGEST_SHARE)


def cache_gib(ram: int | None) -> int:
    """The cache of a replica without a GPU, in whole GiB: a quarter of the memory it was given."""
    return _USUAL_CACHE_GIB if ram is None else max(1, ram // _MIB_IN_GIB // 4)


def lora_rank(adapters: Sequence[Adapter]) -> int:
    """The smallest of the ranks vLLM knows that all adapters fit. Raises `Invalid`."""
    rank = max(each.rank for each in adapters)
    fitting = [each for each in _RANKS if each >= rank]
    if not fitting:
        raise Invalid(
            f"cannot serve the model: an adapter has rank {rank}, and vLLM serves {_RANKS[-1]} at most",
            code="COMMAND_INVALID",
        )
    return fitting[0]


def adapter_name(served: str, adapter: Adapter) -> str:
    """What a request says as `model` to be answered with an adapter."""
    return f"{served}:{adapter.name}"


def of_model(model: ModelFiles) -> list[str]:
    """Where a GGUF file's tokenizer and configuration are; a folder has its own."""
    found = [] if model.tokenizer is None else [f"--tokenizer={model.tokenizer}"]
    return found if model.config is None else [*found, f"--hf-config-path={model.config}"]


def of_gpus(gpus: int, heads: int | None, share: float, given: Sequence[Option]) -> list[str]:
    """How the model is spread over its GPUs, unless the deployment says that itself, and how much of them it takes."""
    if gpus == 0:
        return []
    chosen = split(gpus, heads)
    sizes = [("tensor", chosen.tensor), ("pipeline", chosen.pipeline)]
    ours = [] if _gives(given, *PARALLEL) else [f"--{name}-parallel-size={size}" for name, size in sizes if size > 1]
    return [*ours, f"--gpu-memory-utilization={share:g}"]


def of_task(task_type: str | None, version: tuple[int, ...] | None, given: Sequence[Option]) -> list[str]:
    """An embedding model is told apart by what its owner says: its architecture may do both."""
    if task_type != "embedding" or _gives(given, "--runner", "--task", "--convert"):
        return []
    return ["--task=embed"] if version is not None and version < _FIRST_WITH_RUNNER else ["--runner=pooling"]


def of_adapters(adapters: Sequence[Adapter], served: str, given: Sequence[Option]) -> list[str]:
    """Every adapter under the deployment's name and its own."""
    if not adapters:
        return []
    rank = [] if _gives(given, "--max-lora-rank") else [f"--max-lora-rank={lora_rank(adapters)}"]
    modules = [json.dumps({"name": adapter_name(served, each), "path": str(each.folder)}) for each in adapters]
    return ["--enable-lora", *rank, "--lora-modules", *modules]


def environment(variables: Mapping[str, str], *, gpus: int, ram: int | None) -> dict[str, str]:
    """The deployment's variables with ours: nothing is fetched, nobody is told, and a cache without GPUs has a size."""
    cache = {} if gpus else {"VLLM_CPU_KVCACHE_SPACE": str(cache_gib(ram))}
    ours = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_HOST_IP": "127.0.0.1"}
    return {**cache, **variables, **ours}


def _gives(given: Sequence[Option], *names: str) -> bool:
    return any(each.name in names for each in given)
