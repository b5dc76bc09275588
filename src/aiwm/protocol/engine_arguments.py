"""Which arguments a deployment may give its engine: everything else is refused, whatever an engine may learn later.

Nothing here says where the engine listens, which files it reads, whose code it loads or who may use it. Pure tables.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiwm.protocol.engine_json import names_no_code, names_no_file, speculates_alone
from aiwm.protocol.states import EngineName


@dataclass(frozen=True, slots=True)
class Kind:
    """What an argument's value may be; `words` say it after "must be"."""

    words: str
    fits: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Allowed:
    """An engine's arguments by their long names; without a kind they take no value.

    `refused` says of others why they are not a deployment's to give. `negatable` switches may be given as `--no-…` too,
    and `underscores` are as good as dashes.
    """

    arguments: Mapping[str, Kind | None]
    refused: Mapping[str, str]
    negatable: bool = False
    underscores: bool = False


def _matching(words: str, pattern: str) -> Kind:
    compiled = re.compile(pattern, re.ASCII)
    return Kind(words, lambda value: compiled.fullmatch(value) is not None)


def _one_of(*choices: str) -> Kind:
    return Kind(f"one of {', '.join(choices)}", lambda value: value in choices)


WHOLE = _matching("a whole number", r"-?\d{1,15}")
NUMBER = _matching("a number", r"-?\d{1,15}(\.\d{1,15})?")
LENGTH = _matching("a number of tokens, like 8192 or 8k, or auto", r"-?\d{1,12}(\.\d{1,3})?[kKmM]?|auto")
WORD = _matching("one word", r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
TRUTH = _one_of("true", "false", "1", "0")


JSON = Kind("a JSON object whose texts name no file", names_no_file)
NAMES = Kind("a JSON object whose texts name no file and no module", names_no_code)
SPECULATION = Kind(
    "a JSON object of a method without a draft model (ngram, suffix, mtp) and the numbers that docs/engines.md lists",
    speculates_alone,
)

_TEMPLATE_FILE = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][\w.-]*(/[\w.-]+)*\.jinja2?", re.ASCII)


def names_template_file(value: str) -> bool:
    """Whether a chat template is given as a file of the model's, not as its text."""
    return _TEMPLATE_FILE.fullmatch(value) is not None


TEMPLATE = Kind(
    "the template's own text, or the path of a .jinja file among the model's files",
    lambda value: names_template_file(value) or (re.search(r"{{|{%", value) is not None and "\0" not in value),
)

_LISTENS = "where it listens is the node's to say"
_FILES = "an engine reads the deployment's model and no other files"
_ACCESS = "who may use it is decided by AIWM"
_CODE = "an engine loads no code of a deployment's choosing"
_MEMORY = "say in resources.gpuMemory how much of each GPU it may take"
_NAME = "it is served under the deployment's name"
_TOGETHER = "how replicas work together is AIWM's to say"


def _because(reason: str, *names: str) -> dict[str, str]:
    return {f"--{name}": reason for name in names}


REMOTE_CODE = "--trust-remote-code"
CHAT_TEMPLATE = "--chat-template"
PARALLEL = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")

VLLM = Allowed(
    arguments={
        REMOTE_CODE: None,
        CHAT_TEMPLATE: TEMPLATE,
        **dict.fromkeys(PARALLEL, WHOLE),
        **dict.fromkeys(
            (
                "--enable-expert-parallel",
                "--disable-custom-all-reduce",
                "--enforce-eager",
                "--disable-sliding-window",
                "--disable-cascade-attn",
                "--enable-prefix-caching",
                "--enable-chunked-prefill",
                "--disable-chunked-mm-input",
                "--disable-hybrid-kv-cache-manager",
                "--async-scheduling",
                "--calculate-kv-scales",
                "--fully-sharded-loras",
                "--language-model-only",
                "--enable-auto-tool-choice",
                "--exclude-tools-when-tool-choice-none",
                "--return-tokens-as-token-ids",
                "--enable-prompt-tokens-details",
                "--enable-force-include-usage",
                "--enable-log-requests",
                "--disable-uvicorn-access-log",
            ),
            None,
        ),
        **dict.fromkeys(
            (
                "--seed",
                "--max-num-seqs",
                "--max-num-partial-prefills",
                "--max-long-partial-prefills",
                "--long-prefill-token-threshold",
                "--max-logprobs",
                "--max-log-len",
                "--block-size",
                "--max-loras",
                "--max-lora-rank",
                "--max-cpu-loras",
                "--stream-interval",
                "--max-cudagraph-capture-size",
                "--optimization-level",
            ),
            WHOLE,
        ),
        **dict.fromkeys(
            ("--cpu-offload-gb", "--swap-space", "--mm-processor-cache-gb", "--video-pruning-rate"), NUMBER
        ),
        **dict.fromkeys(("--max-model-len", "--max-num-batched-tokens"), LENGTH),
        **dict.fromkeys(
            (
                "--quantization",
                "--kv-cache-dtype",
                "--lora-dtype",
                "--mamba-cache-dtype",
                "--mamba-ssm-cache-dtype",
                "--attention-backend",
                "--tool-call-parser",
                "--reasoning-parser",
                "--response-role",
            ),
            WORD,
        ),
        **dict.fromkeys(("--override-generation-config", "--default-chat-template-kwargs"), JSON),
        **dict.fromkeys(("--hf-overrides", "--pooler-config", "--limit-mm-per-prompt", "--mm-processor-kwargs"), NAMES),
        "--speculative-config": SPECULATION,
        "--dtype": _one_of("auto", "half", "float16", "bfloat16", "float", "float32"),
        "--runner": _one_of("auto", "generate", "pooling"),
        "--convert": _one_of("auto", "none", "embed", "classify", "reward"),
        "--task": _one_of("auto", "generate", "embed", "embedding", "classify", "score", "reward"),
        "--model-impl": _one_of("auto", "vllm", "transformers"),
        "--load-format": _one_of("auto", "safetensors", "pt", "gguf", "bitsandbytes", "mistral", "dummy"),
        "--config-format": _one_of("auto", "hf", "mistral"),
        "--tokenizer-mode": _one_of("auto", "hf", "slow", "mistral"),
        "--generation-config": _one_of("auto", "vllm"),
        "--scheduling-policy": _one_of("fcfs", "priority"),
        "--logprobs-mode": _one_of("raw_logits", "raw_logprobs", "processed_logits", "processed_logprobs"),
        "--chat-template-content-format": _one_of("auto", "string", "openai"),
        "--uvicorn-log-level": _one_of("debug", "info", "warning", "error", "critical", "trace"),
    },
    refused={
        **_because(_LISTENS, "host", "port", "uds", "grpc-port", "root-path", "headless", "api-server-count"),
        **_because(_LISTENS, "ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers"),
        **_because(
            _FILES, "model", "tokenizer", "hf-config-path", "download-dir", "config", "lora-modules", "revision"
        ),
        **_because(_FILES, "allowed-local-media-path", "allowed-media-domains", "log-config-file", "hf-token"),
        **_because("adapters are found among the model's files", "enable-lora", "default-mm-loras"),
        **_because(_ACCESS, "api-key", "allowed-origins", "allowed-methods", "allowed-headers", "allow-credentials"),
        **_because(_CODE, "middleware", "tool-parser-plugin", "reasoning-parser-plugin", "logits-processors"),
        **_because(_CODE, "worker-cls", "worker-extension-cls", "scheduler-cls", "io-processor-plugin", "tool-server"),
        **_because(_MEMORY, "gpu-memory-utilization", "device-memory-utilization", "kv-cache-memory-bytes"),
        **_because(_MEMORY, "num-gpu-blocks-override"),
        **_because(_NAME, "served-model-name"),
        **_because(_TOGETHER, "distributed-executor-backend", "nnodes", "node-rank", "master-addr", "master-port"),
        **_because(_TOGETHER, "data-parallel-address", "data-parallel-rpc-port", "kv-transfer-config", "device-ids"),
        **_because("its numbers are read from them", "disable-log-stats"),
    },
    negatable=True,
    underscores=True,
)

TRITON = Allowed(
    arguments={
        **dict.fromkeys(
            (
                "--pinned-memory-pool-byte-size",
                "--model-load-thread-count",
                "--model-load-retry-count",
                "--buffer-manager-thread-count",
                "--http-thread-count",
                "--http-max-input-size",
                "--grpc-infer-allocation-pool-size",
                "--metrics-interval-ms",
                "--log-verbose",
            ),
            WHOLE,
        ),
        **dict.fromkeys(
            ("--log-info", "--log-warning", "--log-error", "--allow-cpu-metrics", "--enable-peer-access"), TRUTH
        ),
        "--disable-auto-complete-config": None,
        "--log-format": _one_of("default", "ISO8601"),
        "--rate-limit": _one_of("execution_count", "off"),
        "--rate-limit-resource": _matching("NAME:COUNT or NAME:COUNT:DEVICE", r"[\w.-]{1,64}:\d{1,9}(:\d{1,3})?"),
        "--cuda-memory-pool-byte-size": _matching("DEVICE:BYTES", r"\d{1,3}:\d{1,15}"),
        "--model-load-gpu-limit": _matching("DEVICE:FRACTION", r"\d{1,3}:[01](\.\d{1,6})?"),
        "--min-supported-compute-capability": NUMBER,
        "--cache-config": _matching("local,size=BYTES", r"local,size=\d{1,15}"),
        "--metrics-config": _matching(
            "NAME=true or NAME=false of Triton's latency metrics",
            r"(summary|counter|histogram)_latencies=(true|false)",
        ),
        "--backend-config": _matching(
            "default-max-batch-size of a backend, or a size or time limit of python's",
            r"\w{0,32},default-max-batch-size=\d{1,9}"
            r"|python,(shm-default-byte-size|shm-growth-byte-size|stub-timeout-seconds)=\d{1,15}",
        ),
    },
    refused={
        **_because(
            _LISTENS, "http-address", "http-port", "reuse-http-port", "allow-http", "http-header-forward-pattern"
        ),
        **_because(_LISTENS, "grpc-address", "grpc-port", "reuse-grpc-port", "allow-grpc", "allow-sagemaker"),
        **_because(_LISTENS, "metrics-address", "metrics-port", "allow-metrics", "allow-vertex-ai", "id"),
        **_because(_LISTENS, "grpc-use-ssl", "grpc-use-ssl-mutual", "grpc-server-cert", "grpc-server-key"),
        **_because(
            _FILES, "model-repository", "model-store", "log-file", "trace-config", "trace-file", "cache-directory"
        ),
        **_because("AIWM loads the deployment's models", "load-model", "model-control-mode", "repository-poll-secs"),
        **_because(_CODE, "backend-directory", "repoagent-directory", "host-policy"),
        **_because(_ACCESS, "http-restricted-api", "grpc-restricted-protocol"),
        **_because("AIWM judges by it whether the engine serves", "strict-readiness", "exit-on-error"),
        **_because("the deployment's own stop says it", "exit-timeout-secs"),
    },
)

ALLOWED: Mapping[EngineName, Allowed] = {EngineName.VLLM: VLLM, EngineName.TRITON: TRITON}
"""What is not here, a custom engine, takes any: they go to a program or an image of the deployment's own choosing."""
