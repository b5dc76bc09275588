"""Why engines ended, in words with what to do: from what vLLM 0.32 and Triton 2.51 really wrote, and older vLLMs write.

What needs a GPU to be provoked is taken from vLLM's sources.
"""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.engines import triton_errors, vllm_errors
from aiwm.daemon.engines.custom import CustomEngine

PYDANTIC = "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, "
INPUT = " [type=value_error, input_value=ArgsKwargs((), {'model': ...nderer_num_workers': 1}), input_type=ArgsKwargs]\n"
WORKER = "(Worker pid=11144) ERROR 11-25 16:34:50 [multiproc_executor.py:953] "
ENDED = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}\n"
)

PROVOKED = [
    (
        f"{PYDANTIC}Model architectures ['FooForCausalLM'] are not supported for now. Supported: dict_keys([]){INPUT}",
        "does not know the model's architecture 'FooForCausalLM'",
    ),
    (
        f"{PYDANTIC}User-specified max_model_len (100000) is greater than the derived max_model_len "
        f"(max_position_embeddings=2048.0 or model_max_length=None in model's config.json).{INPUT}",
        "--max-model-len 100000 is more than the model was made for; lower it to 2048",
    ),
    (
        f"{WORKER}RuntimeError: Cannot find any model weights with `/models/m`\n{ENDED}",
        "there are no weights among the model's files; upload its *.safetensors",
    ),
    (
        f"{PYDANTIC}Invalid repository ID or local directory specified: '/models/m'.\nPlease verify{INPUT}",
        "there is no config.json among the model's files",
    ),
    (
        "OSError: It looks like the config file at '/models/m/config.json' is not a valid JSON file.\n",
        "config.json is not JSON; upload it again",
    ),
    (
        "OSError: It looks like the config file at '/models/m.gguf' is not a valid JSON file.\n",
        "this vLLM does not read GGUF files",
    ),
    (
        "ValueError: Couldn't instantiate the backend tokenizer from one of: \n(1) a `tokenizers` library file\n",
        "upload tokenizer.json and tokenizer_config.json as well",
    ),
    (
        f"{PYDANTIC}The repository /models/m contains custom code which must be executed to correctly load the model. "
        f"You can inspect the repository content at /models/m .\nPlease pass `trust_remote_code=True`{INPUT}",
        "add --trust-remote-code to engineArgs, on a node whose operator allows it",
    ),
    (
        f"{PYDANTIC}Unknown quantization method: foo. Must be one of ['awq', 'fp8'].{INPUT}",
        "does not know the quantization foo;",
    ),
    (
        f"{WORKER}ValueError: Available memory on node 0 (21.7/23.54 GiB) on kv cache allocation is "
        f"less than requested "
        "memory for kv (1000.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory.\n",
        "21.7/23.54 GiB of the machine's memory are free, too little for a cache of 1000.0 GiB",
    ),
    (
        f"{WORKER}safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata\n{ENDED}",
        "its weights cannot be read (Error while deserializing header: incomplete metadata)",
    ),
    (
        f"{WORKER}RuntimeError: The size of tensor a (256) must match the size of tensor b (128) at non-singleton "
        f"dimension 1\n{ENDED}",
        "its weights do not fit its config.json",
    ),
    (
        f"{PYDANTIC.replace('ModelConfig', 'VllmConfig')}Total number of attention heads (4) must "
        f"be divisible by tensor "
        f"parallel size (3).{INPUT}",
        "its 4 attention heads cannot be split over 3 GPUs",
    ),
    ("usage: vllm [-h]\nvllm: error: unrecognized arguments: --foo 1\n", "does not know --foo 1; leave it out"),
    (
        "vllm serve: error: argument --max-num-seqs: invalid int value: 'abc'\n",
        "argument --max-num-seqs: invalid int value: 'abc'",
    ),
]

KV_CACHE = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 "
    "GiB KV cache is needed, which "
    "is larger than the available KV cache memory (5.12 GiB). "
)
FROM_SOURCES = [
    (
        f"{KV_CACHE}Based on the available memory, the estimated maximum model length is 41936. Try increasing\n",
        "its cache has 5.12 GiB, too little for a context of 131072 tokens; lower --max-model-len to 41936, or give it",
    ),
    (f"{KV_CACHE}Try increasing `gpu_memory_utilization`.\n", "lower --max-model-len, or give it more memory"),
    ("ValueError: No available memory for the cache blocks. Try increasing\n", "nothing is left for the cache"),
    (
        "ValueError: Free memory on device cuda:0 (7.24/23.64 GiB) on startup is less than desired "
        "GPU memory utilization "
        "(0.9, 21.28 GiB). Decrease GPU memory utilization\n",
        "21.28 GiB of GPU memory were to be taken and 7.24/23.64 GiB are free",
    ),
    (
        f"{WORKER}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 "
        f"has a total capacity\n",
        "the GPU has too little memory for it; use more GPUs",
    ),
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried\n",
        "the machine",
    ),
    (
        f"{PYDANTIC}The quantization method fp8 is not supported for the current GPU. Minimum "
        f"capability: 89. Current: 75."
        f"{INPUT}",
        "needs a GPU of compute capability 89 or more",
    ),
    (
        "ValueError: torch.bfloat16 is not supported for quantization method awq. Supported dtypes: [torch.float16]\n",
        "set --dtype, for example --dtype=half",
    ),
    ("ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.\n", "add --dtype=half"),
    ("ValueError: LoRA rank 64 is greater than max_lora_rank 16.\n", "an adapter has rank 64"),
]


@pytest.mark.parametrize(("log", "words"), [*PROVOKED, *FROM_SOURCES])
def test_what_vllm_says_is_told_with_what_to_do(log: str, words: str) -> None:
    told = vllm_errors.explain(f"INFO 11-25 starting\n{log}")
    assert told is not None
    assert words in told
    assert "{" not in told


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (f"{WORKER}KeyError: 'layers.0.mlp'\n{ENDED}", "KeyError: 'layers.0.mlp'"),
        (f"{PYDANTIC}Something new is wrong here.{INPUT}", "Something new is wrong here."),
        ("INFO 11-25 all is well\n", None),
        ("", None),
        (ENDED, None),
    ],
)
def test_what_is_not_known_is_told_in_vllms_own_words(log: str, words: str | None) -> None:
    assert vllm_errors.explain(log) == words


def test_a_taken_port_is_told_from_other_ends() -> None:
    assert vllm_errors.port_taken("OSError: [Errno 98] Address already in use\n")
    assert not vllm_errors.port_taken(PROVOKED[0][0])
    assert triton_errors.port_taken("E1125 16:47 1 x.cc:1] failed to start HTTP service: Unavailable - Socket in use\n")
    assert CustomEngine(commands=True).port_taken("Error: listen EADDRINUSE: address already in use 127.0.0.1:1\n")
    for taken in (vllm_errors.port_taken, triton_errors.port_taken, CustomEngine(commands=True).port_taken):
        assert taken(
            "driver failed programming external connectivity: Bind for 0.0.0.0:1 failed: port is already allocated"
        )


LOAD = "E1125 16:46:05.339397 1 model_lifecycle.cc:642] \"failed to load 'demo' version 1: "


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            f"{LOAD}Invalid argument: unable to find backend library for backend 'onnxruntime', try "
            f'specifying runtime"\n',
            "this Triton has no backend onnxruntime; deploy it with an image that has it",
        ),
        (
            "[libprotobuf ERROR text_format.cc:337] Error parsing text-format inference.ModelConfig: 5:4: Message type "
            '"inference.ModelConfig" has no field named "foo".\nerror: creating server: Internal - failed\n',
            "its config.pbtxt cannot be read, at line and column 5:4: Message type",
        ),
        (
            f"{LOAD}Invalid argument: instance group demo_0 of model demo has kind KIND_GPU but no GPUs "
            f'are available"\n',
            "ask for one with resources.gpuCount",
        ),
        (
            f'{LOAD}Internal: MemoryError: Unable to allocate 2.00 PiB for an array\\n\\nAt:\\n  model.py(3)"\n',
            "too little memory for it (MemoryError: Unable to allocate 2.00 PiB for an array); raise resources.ram",
        ),
        (
            "E1125 1 model_repository_manager.cc:724] \"failed to load model 'demo': at least one version must be "
            "available under the version policy of model 'demo'\"\n",
            "upload its files below a folder 1",
        ),
        ("/bin/tritonserver: unrecognized option '--foo=1'\nUsage: tritonserver\n", "does not know --foo=1"),
        (f'{LOAD}Internal: TritonModelException: CUDA out of memory. Tried"\n', "raise resources.gpuMemory"),
    ],
)
def test_what_triton_says_is_told_with_what_to_do(log: str, words: str) -> None:
    told = triton_errors.explain(f"I1125 starting\n{log}")
    assert told is not None
    assert words in told


def test_a_custom_engines_last_line_is_its_reason() -> None:
    assert CustomEngine(commands=True).explain("starting\nno such model\n\n") == "no such model"
    assert CustomEngine(commands=True).explain("\n") is None


@given(st.text(alphabet="() [:]\n{}'`=,.aE", max_size=300))
def test_no_output_breaks_the_reading(log: str) -> None:
    for module in (vllm_errors, triton_errors):
        assert module.explain(log) is None or isinstance(module.explain(log), str)


@pytest.mark.parametrize(
    "piece",
    [
        "max seq len (1) KV cache is needed available KV cache memory (1 GiB) ",
        "Free memory on device (1/1 GiB) ",
        "failed to load 'a' version 1: instance group ",
        "Value error, ",
        "Model architectures [",
        "failed to load '",
        "a.",
        "Error parsing text-format inference.ModelConfig: 1:1: ",
        "(x) ERROR 1 [x] ",
    ],
)
def test_hostile_output_takes_no_long_time_to_read(piece: str) -> None:
    log = piece * (65_536 // len(piece))
    began = time.process_time()
    vllm_errors.explain(log)
    triton_errors.explain(log)
    assert time.process_time() - began < 2.0
