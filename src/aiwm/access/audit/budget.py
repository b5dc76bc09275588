"""How many refusals of one address go on record one by one: a flood of them must not fill the store."""

from collections import OrderedDict
from dataclasses import dataclass

MAX_ADDRESSES = 4096
PER_WINDOW = 120
WINDOW_SECONDS = 60.0


@dataclass(slots=True)
class _Window:
    began: float
    kept: int = 0
    left_out: int = 0


class Budget:
    """For each address, `PER_WINDOW` entries a minute; what is left out is counted into the next one that is kept."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def spend(self, address: str, now: float) -> int | None:
        """None when the entry is to be left out, else how many were since the last one. `now` in seconds."""
        window = self._windows.pop(address, None) or _Window(now)
        self._windows[address] = window
        if len(self._windows) > MAX_ADDRESSES:
            self._windows.popitem(last=False)
        if now - window.began >= WINDOW_SECONDS:
            window.began, window.kept = now, 0
        if window.kept >= PER_WINDOW:
            window.left_out += 1
            return None
        window.kept += 1
        left_out, window.left_out = window.left_out, 0
        return left_out
