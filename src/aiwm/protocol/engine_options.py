"""What a deployment may say to its engine besides its resources: checked where it is asked for, and on the node."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aiwm.protocol.engine_arguments import ALLOWED, REMOTE_CODE, Allowed
from aiwm.protocol.errors import FieldError, Invalid
from aiwm.protocol.states import EngineName


@dataclass(frozen=True, slots=True)
class Option:
    """One argument under its full name, and its value where it takes one."""

    name: str
    value: str | None = None

    @property
    def text(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


@dataclass(frozen=True, slots=True)
class _Refusal:
    index: int
    reason: str


def check_options(
    engine: EngineName, arguments: Sequence[str], variables: Mapping[str, str], *, code: str = "VALIDATION_FAILED"
) -> None:
    """Raises `Invalid` that names each argument and variable which is not the deployment's to give."""
    fields = [
        FieldError(field=f"engineArgs[{each.index}]", message=each.reason, code="ARGUMENT_NOT_ALLOWED")
        for each in _read(engine, arguments)
        if isinstance(each, _Refusal)
    ]
    fields += [
        FieldError(field=f"environmentVariables.{name}", message=reason, code="VARIABLE_NOT_ALLOWED")
        for name, value in variables.items()
        if (reason := _objection(engine, name, value)) is not None
    ]
    if fields:
        first = fields[0]
        raise Invalid(f"cannot start {engine} like that: {first.field}: {first.message}", code=code, fields=fields)


def options(engine: EngineName, arguments: Sequence[str]) -> list[Option]:
    """Checked arguments, each in one piece, so that an engine reads them exactly as they were checked."""
    return [each for each in _read(engine, arguments) if isinstance(each, Option)]


def wants_remote_code(given: Sequence[Option]) -> bool:
    """Whether the deployment asks for Python code among the model's files to be run."""
    return any(each.name == REMOTE_CODE for each in given)


def _read(engine: EngineName, arguments: Sequence[str]) -> Iterator[Option | _Refusal]:
    allowed = ALLOWED.get(engine)
    if allowed is None:
        yield from _read_free(arguments)
        return
    index = 0
    while index < len(arguments):
        following = arguments[index + 1] if index + 1 < len(arguments) else None
        found, taken = _one(allowed, index, arguments[index], following)
        yield found
        index += taken


def _read_free(arguments: Sequence[str]) -> Iterator[Option | _Refusal]:
    for index, each in enumerate(arguments):
        yield _Refusal(index, "holds a NUL character") if "\0" in each else Option(each)


def _one(allowed: Allowed, index: int, text: str, following: str | None) -> tuple[Option | _Refusal, int]:
    """What one argument is, and how many pieces it takes up."""
    given, joined, value = text.partition("=")
    name = given.replace("_", "-") if allowed.underscores else given
    switch = f"--{name.removeprefix('--no-')}" if allowed.negatable and name.startswith("--no-") else name
    if switch not in allowed.arguments or (switch != name and allowed.arguments[switch] is not None):
        return _Refusal(index, _why_not(allowed, name)), 1
    kind = allowed.arguments[switch]
    if kind is None:
        return (_Refusal(index, f"{name} takes no value"), 1) if joined else (Option(name), 1)
    taken = 1
    if not joined:
        if following is None or following.startswith("--"):
            return _Refusal(index, f"{name} needs a value"), 1
        value, taken = following, 2
    if not kind.fits(value):
        return _Refusal(index, f"the value of {name} must be {kind.words}"), taken
    return Option(name, value), taken


def _why_not(allowed: Allowed, name: str) -> str:
    if not name.startswith("--"):
        return "arguments are given by their long names, like --name=value"
    shown = name if len(name) <= 64 else f"{name[:64]}…"
    known = allowed.refused.get(name)
    return (
        f"{shown} is not a deployment's to give: {known or 'it is not among the arguments that docs/engines.md lists'}"
    )


# What makes a program load, run or trust something else than what was started, and what AIWM says itself.
_NEVER = re.compile(
    r"LD_\w*|PYTHON\w*|PATH|HOME|SHELL|USER|TMPDIR|IFS|ENV|BASH_\w*|SHELLOPTS|BASHOPTS|PS4|GCONV_PATH|LOCPATH|NLSPATH"
    r"|GLIBC_TUNABLES|RES_OPTIONS|HOSTALIASES|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|INJECTION\w*|CACHE_PATH)"
    r"|NVIDIA_\w*|GPU_DEVICE_ORDINAL|(HIP|ROCR)_VISIBLE_DEVICES|DOCKER_\w*|AIWM_\w*|NODE_TOKEN|PORT|MODEL_DIR"
    r"|NODE_OPTIONS|PERL5?(LIB|OPT|DB)|RUBY(LIB|OPT)|JAVA_TOOL_OPTIONS|GIT_\w*|SSL(_CERT_\w+|KEYLOGFILE)"
)
# Of the language stack around vLLM and Triton: other files, other programs, other hosts, other people.
_NOT_OF_ENGINES = re.compile(
    r"CC|CXX|CUDA_HOME|NVCC\w*|NCCL_(\w*(PLUGIN|FILE)\w*|COMM_ID)|OMP_TOOL\w*|TORCH_(EXTENSIONS_DIR|LOGS_OUT)|TORCHINDUCTOR_\w+"
    r"|TRITON_\w+|HF_\w+|HUGGING\w+|TRANSFORMERS_\w+|XDG_\w+|RAY_\w+|OTEL_\w+|MASTER_(ADDR|PORT)|DO_NOT_TRACK"
)
# Everything of vLLM's own but what tunes how it computes.
_OF_VLLM = re.compile(
    r"VLLM_(CPU_KVCACHE_SPACE|CPU_OMP_THREADS_BIND|CPU_NUM_OF_RESERVED_CPU|LOGGING_LEVEL|ATTENTION_BACKEND"
    r"|FLASH_ATTN_VERSION|ALLOW_LONG_MAX_MODEL_LEN|ENGINE_ITERATION_TIMEOUT_S|SLEEP_WHEN_IDLE"
    r"|USE_(?!MODELSCOPE|RUST|PRECOMPILED)\w+|ENABLE_V1_MULTIPROCESSING)"
)


def _objection(engine: EngineName, name: str, value: str) -> str | None:
    if "\0" in value:
        return "holds a NUL character"
    refused = _NEVER.fullmatch(name) is not None
    if engine in ALLOWED:
        refused = refused or _NOT_OF_ENGINES.fullmatch(name) is not None
        refused = refused or (name.startswith("VLLM_") and _OF_VLLM.fullmatch(name) is None)
    return f"{name} is not a deployment's to set; docs/engines.md says which are not" if refused else None
