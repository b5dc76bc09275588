"""What Triton counts, under the names common to all engines."""

from aiwm.daemon.engines.prometheus import samples
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
    queued = samples(page, (_PENDING,)).get(_PENDING)
    if _ANSWERED not in own:
        return EngineNumbers(queued=_whole(queued))
    answered, failed = int(own[_ANSWERED]), int(own.get(_FAILED, 0))
    duration = own.get(_DURATION)
    return EngineNumbers(
        requests=answered + failed,
        failures=failed,
        queued=_whole(queued),
        request_seconds=None if duration is None else round(duration / _MICROSECONDS, 3),
        request_count=None if duration is None else answered,
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else max(int(value), 0)
