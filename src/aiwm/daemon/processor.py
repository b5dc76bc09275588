"""How busy the machine's processors are. psutil keeps its own percentage for each thread apart: 0 in a new one."""

import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

_SHORTEST_SECONDS = 1.0


class Processor:
    """Busy since the last look, in percent of all processors; looks that come too soon get the last answer."""

    def __init__(
        self, times: Callable[[], Any] = psutil.cpu_times, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._times, self._monotonic = times, monotonic
        self._lock = threading.Lock()
        self._before, self._at = _busy_and_total(times()), monotonic()
        self._percent = 0.0

    def percent(self) -> float:
        with self._lock:
            now = self._monotonic()
            if now - self._at >= _SHORTEST_SECONDS:
                busy, total = _busy_and_total(self._times())
                spent = total - self._before[1]
                if spent > 0:
                    self._percent = round(min(100.0, max(0.0, (busy - self._before[0]) / spent * 100)), 1)
                self._before, self._at = (busy, total), now
            return self._percent


def _busy_and_total(times: Any) -> tuple[float, float]:
    # A guest's time is in its host's "user" already.
    total = sum(times) - times.guest - times.guest_nice
    return total - times.idle - times.iowait, total
