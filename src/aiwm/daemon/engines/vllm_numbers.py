"""vLLM's metrics page under the names common to all engines; versions call the cache's use differently. Pure."""

from aiwm.daemon.engines.prometheus import count, samples, seconds
from aiwm.protocol.node_channel import EngineNumbers

_COUNTS = {
    "requests": "vllm:request_success_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generated_tokens": "vllm:generation_tokens_total",
    "running": "vllm:num_requests_running",
    "queued": "vllm:num_requests_waiting",
    "first_token_count": "vllm:time_to_first_token_seconds_count",
    "request_count": "vllm:e2e_request_latency_seconds_count",
}
_SECONDS = {
    "first_token_seconds": "vllm:time_to_first_token_seconds_sum",
    "request_seconds": "vllm:e2e_request_latency_seconds_sum",
}
_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_NAMES = frozenset({*_COUNTS.values(), *_SECONDS.values(), *_CACHE})


def read(page: str) -> EngineNumbers:
    """What the page says; a request that its caller gave up counts as answered, not as failed."""
    found = samples(page, _NAMES)
    values: dict[str, object] = {field: count(found.get(name)) for field, name in _COUNTS.items()}
    values |= {field: seconds(found.get(name)) for field, name in _SECONDS.items()}
    if values["requests"] is not None:
        failed = samples(page, (_COUNTS["requests"],), {"finished_reason": "error"})
        values["failures"] = count(failed.get(_COUNTS["requests"], 0.0))
    if used := [found[name] for name in _CACHE if name in found]:
        # Named percent, it is a fraction of one.
        values["cache_used"] = min(100.0, round(used[0] * 100, 1)) if used[0] >= 0 else None
    return EngineNumbers.model_validate(values)
