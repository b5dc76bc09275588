"""A compressed tar read once, forwards, with an eye on what it makes the reader do.

`tarfile` wants a seekable file and reads headers of whatever size they claim into memory. This gives it one that skips
by reading, steps back only within its last block, counts everything, and refuses a long read.
"""

import io
import tarfile

from aiwm.protocol.errors import Invalid

HEADER_READ = 2**20
_STEP = 2**18
_BLOCK = 512


class TarSource(io.RawIOBase):
    """At most `limit` bytes come out of `raw`, and at most 1 MiB in one read."""

    def __init__(self, raw: io.BufferedIOBase, limit: int) -> None:
        self._raw = raw
        self._left = limit
        self._end = 0
        self._wanted = 0
        self._tail = b""
        self._last = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._wanted

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only from the start")
        self._wanted = offset
        return offset

    def read(self, size: int = -1, /) -> bytes:
        if size < 0 or size > HEADER_READ:
            raise Invalid("cannot unpack the archive: one of its headers is too long", code="ARCHIVE_TOO_LARGE")
        self._skip()
        back = self._end - self._wanted
        if back > len(self._tail):
            raise tarfile.ReadError("the archive points backwards")
        found = self._tail[len(self._tail) - back :][:size] if back else b""
        while len(found) < size and (more := self._take(size - len(found))):
            found += more
        self._wanted += len(found)
        self._last = found
        return found

    def check_end(self) -> None:
        """Reads what is left, and refuses an archive whose last entry is not followed by the end mark."""
        if self._last != bytes(_BLOCK):
            raise tarfile.ReadError("the end mark is missing")
        while self._take(_STEP):
            pass

    def _skip(self) -> None:
        while self._end < self._wanted and self._take(min(_STEP, self._wanted - self._end)):
            pass
        if self._end < self._wanted:
            self._wanted = self._end

    def _take(self, size: int) -> bytes:
        chunk = self._raw.read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise Invalid("cannot unpack the archive: it unpacks to more than is allowed", code="ARCHIVE_TOO_LARGE")
        self._end += len(chunk)
        self._tail = (self._tail + chunk[-_BLOCK:])[-_BLOCK:]
        return chunk
