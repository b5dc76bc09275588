"""Which keys a blob may have: what a local folder and every S3 server can both hold."""

from collections.abc import Sequence
from itertools import pairwise

from aiwm.protocol.errors import Invalid

MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255
MAX_PARTS = 10_000


def checked_key(key: str) -> str:
    """`key` if it is one: relative, `/`-separated, no empty, `.` or `..` segment, no control character or backslash.

    At most 1024 bytes of UTF-8, 255 in a segment. Raises `Invalid` (`KEY_INVALID`).
    """
    if (reason := _fault(key)) is not None:
        raise Invalid(f"cannot use the object key {key[:200]!r}: {reason}", code="KEY_INVALID")
    return key


def _fault(key: str) -> str | None:
    try:
        segments = [part.encode() for part in key.split("/")]
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if any(part in (b"", b".", b"..") for part in segments):
        return "it has an empty, '.' or '..' segment"
    if any(ord(letter) < 0x20 or ord(letter) == 0x7F or letter == "\\" for letter in key):
        return "it has a control character or a backslash"
    if max(map(len, segments)) > MAX_SEGMENT_BYTES:
        return f"a segment is longer than {MAX_SEGMENT_BYTES} bytes"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"it is longer than {MAX_KEY_BYTES} bytes"
    return None


def checked_part(number: int) -> int:
    """`number` if a part may have it: 1 to 10,000. Raises `Invalid` (`PART_INVALID`)."""
    if not 1 <= number <= MAX_PARTS:
        raise Invalid(f"cannot use part number {number}: it must be 1 to {MAX_PARTS}", code="PART_INVALID")
    return number


def check_order(numbers: Sequence[int]) -> None:
    """Refuses part numbers that cannot make a blob: none at all, or not strictly ascending (`PART_INVALID`)."""
    if not numbers or any(later <= earlier for earlier, later in pairwise(numbers)):
        raise Invalid("cannot complete the upload: name its parts, each once and in order", code="PART_INVALID")
    checked_part(numbers[0])
    checked_part(numbers[-1])
