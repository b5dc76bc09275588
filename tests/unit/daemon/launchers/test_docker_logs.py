"""A container's log read in pieces is the log: nothing twice, nothing left out, and no answer is too heavy."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.enginelog import MOST_BYTES, too_heavy
from aiwm.daemon.launchers.docker_logs import (
    Line,
    after,
    begin,
    keep,
    kept,
    lines,
    microseconds,
    newest,
    oldest,
    since,
    tail,
)

LINES = st.lists(st.tuples(st.integers(0, 30), st.binary(max_size=19).map(lambda text: text + b"\n")), max_size=40).map(
    sorted
)


def frame(stamp: str, text: bytes, stream: int = 1) -> bytes:
    payload = stamp.encode() + b" " + text
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4) + payload


async def given_lines(found: list[Line]) -> AsyncIterator[Line]:
    for each in found:
        yield each


async def test_frames_become_lines_and_a_cut_frame_none() -> None:
    reader = asyncio.StreamReader()
    whole = frame("2026-01-02T03:04:05.123456789Z", b"one\n") + frame("2026-01-02T03:04:06.000000000Z", b"two\n", 2)
    reader.feed_data(whole + frame("2026-01-02T03:04:07.000000000Z", b"three\n")[:-2])
    reader.feed_eof()
    found = [each async for each in lines(reader)]
    assert [text for _, text in found] == [b"one\n", b"two\n"]
    assert found[0][0] == 1767323045_123456


def test_moments_are_written_as_docker_reads_them() -> None:
    assert since(1767323045_000456) == "1767323045.000456"
    assert microseconds("2026-01-02T03:04:05.000456Z") == 1767323045_000456
    assert begin("0001-01-01T00:00:00Z") == 0


@given(LINES, st.integers(30, 200))
def test_pieces_put_together_are_the_whole(found: list[Line], most: int) -> None:
    together, offset = "", 0
    for _ in range(len(found) + 1):
        read = asyncio.run(oldest(given_lines([each for each in found if each[0] >= offset]), most))
        answer = after(read, offset, most)
        together += answer.text
        if answer.next_offset == offset:
            break
        offset = answer.next_offset
    # Only of lines of one moment may some be cut: together they would be more than an answer takes.
    crowded = any(sum(len(text) for moment, text in found if moment == each) > most for each in range(31))
    assert crowded or together == b"".join(text for _, text in found).decode(errors="replace")


@given(LINES, st.integers(1, 50))
def test_a_tail_goes_on_after_the_last_line(found: list[Line], count: int) -> None:
    answer = tail(found, count)
    assert answer.text == b"".join(text for _, text in found[-count:]).decode(errors="replace")
    assert after(found, answer.next_offset).text == ""


def test_what_is_no_text_is_cut_to_what_the_wire_takes() -> None:
    found = [(moment, b"\xff" * 16_000) for moment in range(40)]
    for answer in (tail(found, 40), after(found, 0)):
        assert answer.text
        assert not too_heavy(answer.text.encode())


async def test_a_flood_is_not_kept_in_memory() -> None:
    flood = [(moment, b"x" * 1000) for moment in range(10_000)]
    found = await newest(given_lines(flood))
    assert sum(len(text) for _, text in found) <= MOST_BYTES
    assert found[-1] == flood[-1]


def test_a_removed_container_s_last_lines_are_remembered(tmp_path: Path) -> None:
    assert kept(tmp_path) == []
    keep(tmp_path, [(1, b"one\n"), (2, b"two\n")])
    assert kept(tmp_path) == [(1, b"one\n"), (2, b"two\n")]
    (tmp_path / "container.log.json").write_text("[]")
    assert kept(tmp_path) == []
