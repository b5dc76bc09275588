"""A question to a driver that may never answer, asked so that nobody waits for ever: a broken GPU can hang NVML."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Patience(Generic[T]):
    """Asks `question` in a thread of its own, one at a time; whoever comes meanwhile waits for the same answer."""

    def __init__(self, question: Callable[[], T], first: T, *, seconds: float) -> None:
        self._question, self._last, self._seconds = question, first, seconds
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._answered: threading.Event | None = None
        self._began = 0.0

    def ask(self) -> tuple[T, float]:
        """The answer and 0, or the one before and for how many seconds a newer is waited for. Raises its error."""
        with self._lock:
            if self._answered is None:
                self._answered, self._began = threading.Event(), time.monotonic()
                # Not joined at exit: a thread in the driver's hands would hold up the daemon's end.
                threading.Thread(target=self._answer, args=(self._answered,), daemon=True, name="driver").start()
            answered, began = self._answered, self._began
        # Measured from when it was asked: those who come later need no patience of their own.
        if not answered.wait(max(0.0, began + self._seconds - time.monotonic())):
            return self._last, time.monotonic() - began
        if self._error is not None:
            raise self._error
        return self._last, 0.0

    def _answer(self, answered: threading.Event) -> None:
        try:
            self._last, self._error = self._question(), None
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error
        with self._lock:
            self._answered = None
        answered.set()
