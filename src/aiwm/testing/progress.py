"""What the simulator says of its fleet: a line that lives on a terminal, plain lines elsewhere, a table at last."""

import time
from typing import TextIO

from aiwm.testing.fleet import Count

_PLAIN_EVERY_SECONDS = 10.0


class Progress:
    """Shows counts as they come, once a second or so."""

    def __init__(self, wanted: int, out: TextIO) -> None:
        self._wanted, self._out = wanted, out
        self._alive = out.isatty()
        self._before: tuple[float, int] | None = None
        self._said_at = float("-inf")
        self.began = time.monotonic()
        self.rate = 0.0

    def show(self, count: Count) -> None:
        """On a terminal the line is written anew each time."""
        now = time.monotonic()
        if self._before is not None:
            self.rate = (count.sent - self._before[1]) / max(now - self._before[0], 0.001)
        self._before = now, count.sent
        if self._alive:
            self._out.write(f"\r{self._line(count)}\x1b[K")
        elif now - self._said_at >= _PLAIN_EVERY_SECONDS:
            self._said_at = now
            self._out.write(f"{self._line(count)}\n")
        self._out.flush()

    def end(self) -> None:
        """Leaves the live line standing."""
        if self._alive and self._before is not None:
            self._out.write("\n")
            self._out.flush()
            self._before = None

    def table(self, count: Count) -> str:
        """What there was in all."""
        seconds = time.monotonic() - self.began
        rows = (
            ("nodes", f"{count.nodes}"),
            ("connected at the end", f"{count.connected}"),
            ("reconnects", f"{count.reconnects}"),
            ("messages sent", f"{count.sent}"),
            ("messages a second", f"{count.sent / seconds:.1f}"),
            ("commands done", f"{count.commands}"),
            ("command time p95, at the node", _milliseconds(count.command_p95)),
            ("engines at the end", f"{count.engines}"),
            ("seconds", f"{seconds:.0f}"),
        )
        return "\n".join(f"{name:<30} {value:>10}" for name, value in rows)

    def finish(self, count: Count) -> None:
        """The live line, then the table."""
        self.end()
        self._out.write(f"{self.table(count)}\n")
        self._out.flush()

    def _line(self, count: Count) -> str:
        return (
            f"connected {count.connected}/{self._wanted}, reconnects {count.reconnects}, "
            f"{self.rate:.0f} messages/s, commands {count.commands}, p95 {_milliseconds(count.command_p95)}, "
            f"engines {count.engines}"
        )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
