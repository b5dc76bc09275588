"""What the simulator prints: a live line on a terminal, plain lines elsewhere."""

import io

from aiwm.testing.fleet import Count
from aiwm.testing.progress import Progress

COUNT = Count(nodes=3, connected=2, reconnects=1, sent=40, commands=5, command_p95=0.0123, engines=1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_a_line_comes_now_and_then() -> None:
    out = io.StringIO()
    progress = Progress(3, out)
    progress.show(COUNT)
    progress.show(COUNT)
    assert out.getvalue() == "connected 2/3, reconnects 1, 0 messages/s, commands 5, p95 12.3 ms, engines 1\n"


def test_on_a_terminal_the_line_is_written_anew_and_left_standing() -> None:
    out = Terminal()
    progress = Progress(3, out)
    progress.show(COUNT)
    progress.show(COUNT)
    progress.end()
    progress.end()
    assert out.getvalue().count("\r") == 2
    assert out.getvalue().count("\n") == 1


def test_the_table_has_everything() -> None:
    rows = Progress(3, io.StringIO()).table(COUNT).splitlines()
    found = {row[:30].strip(): row[30:].strip() for row in rows}
    assert found["nodes"] == "3"
    assert found["connected at the end"] == "2"
    assert found["command time p95, at the node"] == "12.3 ms"
    assert found["messages sent"] == "40"
