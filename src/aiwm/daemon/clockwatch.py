"""Notices that the wall clock was moved, which breaks certificates, tokens and the order of what people read. Pure."""

from datetime import datetime

from aiwm.protocol.resources.nodes import ConditionReport

JUMP_SECONDS = 5.0
_SAID_FOR_SECONDS = 600.0


class ClockWatch:
    """Compares wall time with time that only goes on, from one look to the next."""

    def __init__(self) -> None:
        self._before: tuple[datetime, float] | None = None
        self._jump: tuple[float, datetime, float] | None = None

    def look(self, now: datetime, monotonic: float) -> None:
        """Called now and then; what moved between two calls is noticed at the second."""
        if self._before is not None:
            wall, steady = (now - self._before[0]).total_seconds(), monotonic - self._before[1]
            if abs(wall - steady) > JUMP_SECONDS:
                self._jump = (wall - steady, now, monotonic)
        self._before = (now, monotonic)

    def conditions(self, monotonic: float) -> list[ConditionReport]:
        """`ClockJumped`, for ten minutes after the last jump."""
        if self._jump is None or monotonic - self._jump[2] > _SAID_FOR_SECONDS:
            return []
        seconds, at, _ = self._jump
        message = (
            f"the node's clock moved by {seconds:+.0f} s at {at:%H:%M:%S} UTC: it was set, or the machine slept; "
            "keep it right with chrony or systemd-timesyncd"
        )
        return [ConditionReport(type="ClockJumped", status=True, reason="ClockMoved", message=message)]
