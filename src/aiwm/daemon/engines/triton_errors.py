"""Why a Triton ended, from what it wrote. Pure."""

import re

from aiwm.daemon.engines.reasons import reason, told

_PORT_TAKEN = re.compile(
    r"already in use|port is already allocated|failed to start (?:HTTP|GRPC|Metrics) service", re.IGNORECASE
)
_LOAD = r"failed to load '[^'\n]{1,256}' version \d+: [^\n]{0,100}?"

_REASONS = (
    reason(
        r"Error parsing text-format inference\.ModelConfig: (?P<where>\d+:\d+): (?P<why>[^\n]{1,200})",
        "its config.pbtxt cannot be read, at line and column {where}: {why}",
    ),
    reason(
        rf"{_LOAD}unable to find (?:backend library for backend '|')(?P<name>[^'\n]{{1,100}})'",
        "this Triton has no backend {name}; deploy it with an image that has it, like nvcr.io/nvidia/tritonserver",
    ),
    reason(
        rf"{_LOAD}instance group [^\n]{{0,200}}? has kind KIND_GPU but no GPUs are available",
        "its config.pbtxt wants a GPU (KIND_GPU) and the replica has none; ask for one with resources.gpuCount, or say "
        "KIND_CPU",
    ),
    reason(
        r"CUDA (?:error: )?out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation",
        "the GPU has too little memory for it; raise resources.gpuMemory or use another GPU",
    ),
    reason(
        rf"{_LOAD}(?P<why>MemoryError[^\n\\\"]{{0,200}}|std::bad_alloc)",
        "the machine has too little memory for it ({why}); raise resources.ram or use another machine",
    ),
    reason(
        r"at least one version must be available under the version policy",
        "there is no version of the model in it; upload its files below a folder 1 beside config.pbtxt",
    ),
    reason(
        r"tritonserver: unrecognized option '(?P<given>[^'\n]{1,200})'",
        "this version of Triton does not know {given}; leave it out of engineArgs",
    ),
)

_LOAD_FAILED = re.compile(r"failed to load '[^'\n]{1,256}' version \d+: (.+)")
_FATAL = re.compile(r"^error: (.+)$", re.MULTILINE)
_LOGGED = re.compile(r"^E\d{4} [\d:.]+ \d+ \S+\] (.+)$", re.MULTILINE)


def explain(log: str) -> str | None:
    """What is known, with what to do about it; else Triton's own line.

    That is why a model did not load, else why the server did not start, else its last error.
    """
    if (known := told(_REASONS, log)) is not None:
        return known
    for pattern in (_LOAD_FAILED, _FATAL, _LOGGED):
        if found := list(pattern.finditer(log)):
            text = found[0].group() if pattern is _LOAD_FAILED else found[-1].group(1)
            # Triton writes line ends inside its messages as \\n; what follows them is a traceback of its own.
            return text.split("\\n")[0].strip().strip('"')
    return None


def port_taken(log: str) -> bool:
    """Whether another program has one of its ports."""
    return _PORT_TAKEN.search(log) is not None
