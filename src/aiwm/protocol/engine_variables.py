"""Which environment variables a deployment may give its engine: of vLLM and Triton few are taken, of custom most.

The programs and libraries under vLLM and Triton read more variables than anybody can list, and some of those load code:
what is not known to be harmless is refused there. Pure tables.
"""

import re

from aiwm.protocol.engine_arguments import ALLOWED
from aiwm.protocol.states import EngineName

OWN = ("APP_", "MODEL_")
"""How the variables of a model's own begin: nothing around it reads such names, but MODEL_DIR."""

TUNING = frozenset(
    {
        *("OMP_NUM_THREADS", "OMP_PROC_BIND", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM"),
        *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "CUDA_LAUNCH_BLOCKING", "CUDA_DEVICE_MAX_CONNECTIONS"),
        *("TZ", "LANG", "LOG_LEVEL"),
        *("NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE"),
        *("NCCL_IB_DISABLE", "NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_IB_TIMEOUT", "NCCL_IB_RETRY_CNT"),
        *("NCCL_SOCKET_IFNAME", "NCCL_SOCKET_NTHREADS", "NCCL_NSOCKS_PERTHREAD", "NCCL_NET_GDR_LEVEL"),
        *("NCCL_CUMEM_ENABLE", "NCCL_CUMEM_HOST_ENABLE", "NCCL_NVLS_ENABLE", "NCCL_ALGO", "NCCL_PROTO"),
        *("NCCL_BUFFSIZE", "NCCL_NTHREADS", "NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS", "NCCL_CROSS_NIC"),
        *("TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_BLOCKING_WAIT", "TORCH_NCCL_ENABLE_MONITORING"),
        *("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "TORCH_NCCL_AVOID_RECORD_STREAMS", "TORCH_NCCL_HIGH_PRIORITY"),
        *("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_NUM_OF_RESERVED_CPU"),
        *("VLLM_LOGGING_LEVEL", "VLLM_ATTENTION_BACKEND", "VLLM_FLASH_ATTN_VERSION", "VLLM_SLEEP_WHEN_IDLE"),
        *("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "VLLM_ENGINE_ITERATION_TIMEOUT_S", "VLLM_ENABLE_V1_MULTIPROCESSING"),
    }
)
"""What tunes vLLM, Triton and what is under them, and names no file, no code and no address."""

TUNING_FAMILIES = ("LC_", "VLLM_USE_")
_NOT_OF_FAMILIES = re.compile(r"VLLM_USE_(MODELSCOPE|RUST|PRECOMPILED)\w*")
_ZONE = re.compile(r"[A-Za-z][\w+-]*(/[A-Za-z][\w+-]*){0,2}", re.ASCII)
_PATH_CHARACTERS = re.compile(r"[/\\~]")

# What makes a program load, run or trust something else than what was started, and what AIWM says itself.
_NEVER = re.compile(
    r"LD_\w*|PYTHON\w*|PATH|HOME|SHELL|USER|TMPDIR|IFS|ENV|BASH_\w*|SHELLOPTS|BASHOPTS|PS4|GCONV_PATH|LOCPATH|NLSPATH"
    r"|GLIBC_TUNABLES|MALLOC_TRACE|RES_OPTIONS|HOSTALIASES|NVIDIA_\w*|UCX_\w*|TORCH_\w*|CUDACXX"
    r"|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|INJECTION\w*|CACHE_PATH)|GPU_DEVICE_ORDINAL|(HIP|ROCR)_VISIBLE_DEVICES"
    r"|DOCKER_\w*|AIWM_\w*|NODE_TOKEN|HOST|PORT|MODEL_DIR|PROMETHEUS_MULTIPROC_DIR"
    r"|NODE_OPTIONS|PERL5?(LIB|OPT|DB)|RUBY(LIB|OPT)|JAVA_TOOL_OPTIONS|GIT_\w*"
    r"|OPENSSL_\w+|SSL(_CERT_\w+|KEYLOGFILE)|(REQUESTS|CURL)_CA_BUNDLE|(?i:\w*_PROXY)"
)


def objection(engine: EngineName, name: str, value: str) -> str | None:
    """Why a deployment may not set this, in words that say what to do; None when it may."""
    if "\0" in value:
        return "holds a NUL character"
    if _NEVER.fullmatch(name) is not None and name not in TUNING:
        return f"{name} is not a deployment's to set; leave it out, docs/engines.md says which are not"
    if engine not in ALLOWED or name.startswith(OWN):
        return None
    if not _tunes(name):
        own = " or ".join(OWN)
        return (
            f"{name} is not among the variables that docs/engines.md lists for {engine}; "
            f"variables of a model's own begin with {own}"
        )
    if name == "TZ":
        return None if _ZONE.fullmatch(value) else "the value of TZ must be a time zone's name, like Europe/Berlin"
    return f"the value of {name} must hold none of / \\ ~" if _PATH_CHARACTERS.search(value) else None


def _tunes(name: str) -> bool:
    return name in TUNING or (name.startswith(TUNING_FAMILIES) and _NOT_OF_FAMILIES.fullmatch(name) is None)
