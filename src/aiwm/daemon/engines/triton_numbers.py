"""What Triton counts, under the names common to all engines."""

from aiwm.daemon.engines.prometheus import count, samples, seconds
from aiwm.protocol.node_channel import EngineNumbers

_ANSWERED = "nv_inference_request_success"
_FAILED = "nv_inference_request_failure"
_DURATION = "nv_inference_request_duration_us"
_PENDING = "nv_inference_pending_request_count"
_MICROSECONDS = 1_000_000


def read_numbers(page: str, model: str) -> EngineNumbers:
    """Requests are those to `model`; the queue is the server's, as an ensemble's requests wait at the models it calls.

    How many requests are being worked on Triton does not tell.
    """
    own = samples(page, (_ANSWERED, _FAILED, _DURATION), {"model": model})
    pending = samples(page, (_PENDING,)).get(_PENDING)
    # A gauge that is counted up and down at once may be below nothing for a moment.
    queued = None if pending is None else count(max(pending, 0.0))
    if _ANSWERED not in own:
        return EngineNumbers(queued=queued)
    answered, failed = own[_ANSWERED], own.get(_FAILED, 0.0)
    duration = own.get(_DURATION)
    return EngineNumbers(
        requests=count(answered + failed),
        failures=count(failed),
        queued=queued,
        request_seconds=None if duration is None else seconds(duration / _MICROSECONDS),
        request_count=None if duration is None else count(answered),
    )
