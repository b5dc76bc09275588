"""Why a vLLM ended, from what it wrote. Pure; the texts are vLLM's own, of several versions."""

import json
import re

from aiwm.daemon.engines.reasons import reason, told

_PORT_TAKEN = re.compile(r"Address already in use|port is already allocated")

_GAP = r"[^\n]{0,300}?"
_CACHE_SHORT = (
    rf"max seq len \((?P<asked>\d+)\){_GAP}KV cache is needed{_GAP}available KV cache memory "
    r"\((?P<there>[\d.]+ GiB)\)"
)

_REASONS = (
    reason(
        rf"{_CACHE_SHORT}{_GAP}estimated maximum model length is (?P<fits>\d+)",
        "its cache has {there}, too little for a context of {asked} tokens; lower --max-model-len to {fits}, or give "
        "it more memory: resources.gpuMemory, on a processor resources.ram",
    ),
    reason(
        _CACHE_SHORT,
        "its cache has {there}, too little for a context of {asked} tokens; lower --max-model-len, or give it more "
        "memory: resources.gpuMemory, on a processor resources.ram",
    ),
    reason(
        r"No available memory for the cache blocks",
        "the model alone fills the memory it may take, and nothing is left for the cache; raise resources.gpuMemory, "
        "use more GPUs, or deploy a smaller or quantized model",
    ),
    reason(
        rf"Free memory on device{_GAP}\((?P<there>[\d.]+/[\d.]+ GiB)\) on startup is less than desired GPU memory "
        r"utilization \([\d.]+, (?P<asked>[\d.]+ GiB)\)",
        "{asked} of GPU memory were to be taken and {there} are free; lower resources.gpuMemory, or end what else "
        "uses the GPU",
    ),
    reason(
        r"CUDA (?:error: )?out of memory",
        "the GPU has too little memory for it; use more GPUs, raise resources.gpuMemory, lower --max-model-len or "
        "--max-num-seqs, or deploy a quantized model",
    ),
    reason(
        r"Available memory on node \d+ \((?P<there>[\d.]+/[\d.]+ GiB)\) on kv cache allocation is less than requested "
        r"memory for kv \((?P<asked>[-\d./]+ GiB)\)",
        "{there} of the machine's memory are free, too little for a cache of {asked}; lower resources.ram or "
        "VLLM_CPU_KVCACHE_SPACE, or use a machine with more",
    ),
    reason(
        r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)[^\n]*|Cannot allocate memory",
        "the machine has too little memory for it; lower VLLM_CPU_KVCACHE_SPACE or --max-num-seqs, or use a machine "
        "with more",
    ),
    reason(
        r"max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
        r"\((?:max_position_embeddings|\w+)=(?P<most>\d+)",
        "--max-model-len {asked} is more than the model was made for; lower it to {most}",
    ),
    reason(
        r"contains custom code which must be executed",
        "the model brings Python code of its own, which is not run; add --trust-remote-code to engineArgs, on a node "
        "whose operator allows it with AIWM_TRUST_REMOTE_CODE=true",
    ),
    reason(
        r"Model architectures \[(?P<names>[^\]]{0,500})\] (?:are not supported for now|failed to be inspected)"
        r"|has no vLLM implementation",
        "this vLLM does not know the model's architecture {names}; deploy a model it knows, or a newer vLLM",
    ),
    reason(
        r"model type `(?P<name>[^`\n]{1,100})` but Transformers does not recognize this architecture",
        "this vLLM does not know models of type {name}; deploy a newer vLLM",
    ),
    reason(
        r"Unknown quantization method: (?P<name>[\w-]{1,64})",
        "this vLLM does not know the quantization {name}; deploy the model in another one, or a newer vLLM",
    ),
    reason(
        r"quantization method (?P<name>[\w.-]{1,64}) is not supported for the current GPU"
        rf"{_GAP}capability: (?P<least>\d+)",
        "the quantization {name} needs a GPU of compute capability {least} or more; use another GPU or another "
        "quantization of the model",
    ),
    reason(
        r"(?P<name>[\w.-]{1,64}) quantization is (?:currently )?not supported in (?P<platform>\w+)",
        "vLLM has no quantization {name} on this hardware ({platform}); deploy the model in another one",
    ),
    reason(
        r"(?P<dtype>torch\.\w+) is not supported for quantization method (?P<name>[\w.-]{1,64})",
        "the quantization {name} cannot compute in {dtype}; set --dtype, for example --dtype=half",
    ),
    reason(
        r"Bfloat16 is only supported on GPUs with compute capability",
        "this GPU cannot compute in bfloat16; add --dtype=half to engineArgs",
    ),
    reason(
        r"attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size \((?P<size>\d+)\)",
        "its {heads} attention heads cannot be split over {size} GPUs; use a number that divides them, or leave "
        "--tensor-parallel-size to AIWM",
    ),
    reason(
        r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank",
        "an adapter has rank {rank}, more than --max-lora-rank allows; raise it or leave it to AIWM",
    ),
    reason(
        r"Cannot find any model weights",
        "there are no weights among the model's files; upload its *.safetensors",
    ),
    reason(
        r"SafetensorError: (?P<why>[^\n]+)|(?P<what>Error while deserializing header)",
        "its weights cannot be read ({why}{what}); upload the .safetensors files again",
    ),
    reason(
        r"(?P<why>The size of tensor a \(\d+\) must match the size of tensor b \(\d+\))",
        "its weights do not fit its config.json ({why}); upload both from the same model",
    ),
    reason(
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer|no file named tokenizer",
        "there is no tokenizer among the model's files; upload tokenizer.json and tokenizer_config.json as well",
    ),
    reason(
        r"Invalid repository ID or local directory specified|no file named config\.json",
        "there is no config.json among the model's files; upload it as well",
    ),
    reason(
        r"config file at '[^'\n]{1,1000}\.gguf' is not a valid JSON",
        "this vLLM does not read GGUF files; deploy an image of one that does, or upload the model as .safetensors",
    ),
    reason(
        r"config file at '[^'\n]{1,1000}' is not a valid JSON|not a valid JSON file",
        "config.json is not JSON; upload it again",
    ),
    reason(
        r"error: unrecognized arguments: (?P<given>[^\n]+)",
        "this version of vLLM does not know {given}; leave it out of engineArgs",
    ),
    reason(r"^ *Value error, (?P<why>[^\n]{1,400}?)(?: \[type=|$)", "{why}"),
    reason(r"vllm serve: error: (?P<why>[^\n]+)|api_server\.py: error: (?P<what>[^\n]+)", "{why}{what}"),
)

_EXCEPTION = re.compile(
    r"^(?:\([^)\n]*\) )?(?:ERROR [\d: -]+\[[^\]\n]*\] )?(?P<kind>(?:\w+\.)*\w*(?:Error|Exception)): (?P<why>[^\n]+)",
    re.MULTILINE,
)
_EMPTY = (
    "Engine core initialization failed",
    "Engine process failed to start",
    "WorkerProc initialization failed",
    "EngineCore encountered an issue",
)
_DIED = "EngineDeadError"


def explain(log: str) -> str | None:
    """What is known, with what to do about it; else the first exception that says more than that a part failed."""
    if (known := told(_REASONS, log)) is not None:
        return known
    for found in _EXCEPTION.finditer(log):
        if not found["why"].startswith(_EMPTY):
            kind = found["kind"].rpartition(".")[2]
            return f"{kind}: {found['why'].strip()}"
    if _DIED in log:
        return "the process that computes ended without a word, as the kernel ends one for lack of memory; see its log"
    return None


def port_taken(log: str) -> bool:
    """Whether another program has its port."""
    return _PORT_TAKEN.search(log) is not None


def words_of_answer(text: str) -> str:
    """The message of an answer that is an error, in one of the shapes vLLM and the server below it have for that."""
    try:
        return _message(json.loads(text))[:500]
    except (ValueError, RecursionError):
        return " ".join(text.split())[:200]


def _message(body: object) -> str:
    error = body.get("error", body) if isinstance(body, dict) else {}
    return str(error.get("message", error.get("detail")) if isinstance(error, dict) else error)
