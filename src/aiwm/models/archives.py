"""Unpacks archives that strangers sent: nothing outside the folder, no links, no bombs, whole or not at all.

No size that an archive states about itself is believed; what comes out is counted.
"""

import contextlib
import errno
import gzip
import importlib
import importlib.util
import io
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from aiwm.models.tar_source import HEADER_READ, TarSource
from aiwm.protocol.errors import Invalid, Unavailable

_CHUNK = 2**18
_FREE_BYTES = 64 * 2**20
_MAX_PATH_BYTES = 900
_MAX_SEGMENT_BYTES = 255
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EACCES)
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
    struct.error,
    UnicodeError,
    ValueError,
    OverflowError,
    IndexError,
    RuntimeError,
)


def unpack(
    archive_path: Path, into: Path, *, max_files: int = 10_000, max_bytes: int, max_ratio: float = 100.0
) -> list[Path]:
    """Unpacks a `.tar`, `.tar.gz`, `.tgz`, `.tar.zst` or `.zip` (told by its name) into the empty folder `into`.

    Returns the files' paths relative to `into`, in the archive's order. At most `max_bytes` come out, and beyond the
    first 64 MiB at most `max_ratio` times the archive's own size. Raises `Invalid`: `ARCHIVE_UNSAFE_PATH` (also for
    a path that comes twice), `ARCHIVE_LINK` (links, devices, pipes), `ARCHIVE_TOO_LARGE`, `ARCHIVE_CORRUPT`,
    `ARCHIVE_EMPTY`, `ARCHIVE_UNSUPPORTED`; then `into` is as it was.
    `Unavailable` when the disk is full or fails.
    """
    into.mkdir(parents=True, exist_ok=True)
    if any(into.iterdir()):
        raise ValueError(f"cannot unpack into {into}: it is not empty")
    allowed = min(max_bytes, int(max(_FREE_BYTES, archive_path.stat().st_size * max_ratio)))
    target = _Target(into, max_files, allowed)
    try:
        _reader(archive_path.name)(archive_path, target)
        target.check_any()
    except Invalid:
        _clear(into)
        raise
    except _DAMAGE as error:
        _clear(into)
        raise _corrupt(str(error) or type(error).__name__) from error
    except OSError as error:
        _clear(into)
        if error.errno not in _DISK_FAULTS:
            # A damaged table of contents makes the reader seek to where no file can.
            raise _corrupt(str(error)) from error
        raise Unavailable(f"cannot unpack the archive: {error.strerror}", code="STORAGE_UNAVAILABLE") from error
    except BaseException:
        _clear(into)
        raise
    return target.files


@dataclass(slots=True)
class _Target:
    """What has come out so far, and what still may."""

    into: Path
    max_files: int
    left: int
    files: list[Path] = field(default_factory=list)
    members: int = 0
    _kinds: dict[tuple[str, ...], bool] = field(default_factory=dict)

    def folder(self, name: str) -> None:
        """A folder entry of the archive."""
        self._count()
        if parts := _safe(name):
            self._claim_folders(parts)
            (self.into / Path(*parts)).mkdir(parents=True, exist_ok=True)

    def file(self, name: str, content: IO[bytes]) -> None:
        """A file entry of the archive."""
        self._count()
        parts = _safe(name)
        if not parts or name.endswith("/"):
            raise _unsafe(name, "a file needs a name")
        if parts in self._kinds:
            raise _unsafe(name, "it comes twice")
        self._claim_folders(parts[:-1])
        self._kinds[parts] = False
        path = Path(*parts)
        (self.into / path).parent.mkdir(parents=True, exist_ok=True)
        with (self.into / path).open("xb") as out:
            while chunk := content.read(_CHUNK):
                self.take(len(chunk))
                out.write(chunk)
        self.files.append(path)

    def check_any(self) -> None:
        """Refuses an archive of no files."""
        if not self.files:
            raise Invalid("cannot unpack the archive: there is no file in it", code="ARCHIVE_EMPTY")

    def take(self, count: int) -> None:
        """Accounts for bytes that came out."""
        self.left -= count
        if self.left < 0:
            raise too_large("it unpacks to more than is allowed; send the files themselves instead")

    def _count(self) -> None:
        self.members += 1
        if self.members > self.max_files:
            raise too_large(f"it holds more than {self.max_files} entries")

    def _claim_folders(self, parts: tuple[str, ...]) -> None:
        for depth in range(1, len(parts) + 1):
            if not self._kinds.setdefault(parts[:depth], True):
                raise _unsafe("/".join(parts), "it is a file and a folder at once")


def _safe(name: str) -> tuple[str, ...]:
    """The segments of a harmless path; of a folder's `./` none at all."""
    parts = tuple(part for part in name.removesuffix("/").split("/") if part != ".")
    if any(ord(letter) < 0x20 or ord(letter) == 0x7F or letter == "\\" for letter in name):
        raise _unsafe(name, "it has a control character or a backslash")
    if "" in parts:
        raise _unsafe(name, "it is absolute or has an empty segment")
    if ".." in parts:
        raise _unsafe(name, "it leads outside")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as error:
        raise _unsafe(name, "it is not valid Unicode") from error
    if sum(sizes) + len(sizes) > _MAX_PATH_BYTES or max(sizes, default=0) > _MAX_SEGMENT_BYTES:
        raise _unsafe(name, "it is too long")
    return parts


def _reader(name: str) -> Callable[[Path, _Target], None]:
    lowered = name.lower()
    if lowered.endswith(".zip"):
        return _unpack_zip
    if lowered.endswith(".tar"):
        return _unpack_tar(_open_plain)
    if lowered.endswith((".tar.gz", ".tgz")):
        return _unpack_tar(_open_gzip)
    if lowered.endswith(".tar.zst"):
        return _unpack_tar(_open_zstd)
    raise Invalid(f"cannot unpack {name!r}: it must be a .tar, .tar.gz, .tar.zst or .zip", code="ARCHIVE_UNSUPPORTED")


def _open_plain(path: Path) -> io.BufferedIOBase:
    return path.open("rb")


def _open_gzip(path: Path) -> io.BufferedIOBase:
    return gzip.GzipFile(path)


def _open_zstd(path: Path) -> io.BufferedIOBase:
    if importlib.util.find_spec("zstandard") is None:
        raise Invalid(
            "cannot unpack a .tar.zst: this server lacks the zstandard package; send a .tar.gz or .tar",
            code="ARCHIVE_UNSUPPORTED",
        )
    opened: io.BufferedIOBase = importlib.import_module("zstandard").open(path, "rb")
    return opened


def _unpack_tar(opened: Callable[[Path], io.BufferedIOBase]) -> Callable[[Path, _Target], None]:
    def run(path: Path, target: _Target) -> None:
        if path.stat().st_size == 0:
            raise Invalid("cannot unpack the archive: it is an empty file", code="ARCHIVE_EMPTY")
        with opened(path) as raw, _zstd_damage():
            source = TarSource(raw, target.left + target.max_files * 4 * HEADER_READ)
            with tarfile.open(fileobj=source, mode="r:", errorlevel=2) as tar:
                while (member := tar.next()) is not None:
                    _take_tar_member(tar, member, target)
            source.check_end()

    return run


@contextlib.contextmanager
def _zstd_damage() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise _corrupt(str(error)) from error
        raise


def _take_tar_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: _Target) -> None:
    if member.isdir():
        target.folder(member.name)
    elif member.issparse():
        raise Invalid(f"cannot unpack {member.name[:200]!r}: it is a sparse file", code="ARCHIVE_UNSUPPORTED")
    elif not member.isreg():
        raise _link(member.name)
    else:
        content = tar.extractfile(member)
        if content is None:
            raise _corrupt(f"{member.name[:200]!r} has no content")
        with content:
            target.file(member.name, content)


def _unpack_zip(path: Path, target: _Target) -> None:
    if path.stat().st_size == 0:
        raise Invalid("cannot unpack the archive: it is an empty file", code="ARCHIVE_EMPTY")
    with _BoundedReads(path, target.max_files * 1024 + 2**17) as raw, zipfile.ZipFile(raw) as archive:
        for entry in archive.infolist():
            _take_zip_entry(archive, entry, target)


def _take_zip_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: _Target) -> None:
    name = entry.orig_filename
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.flag_bits & 0x1:
        raise Invalid(f"cannot unpack {name[:200]!r}: it is encrypted", code="ARCHIVE_UNSUPPORTED")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _link(name)
    if name.endswith("/"):
        target.folder(name)
        return
    try:
        content = archive.open(entry)
    except NotImplementedError as error:
        raise Invalid(f"cannot unpack {name[:200]!r}: {error}", code="ARCHIVE_UNSUPPORTED") from error
    with content:
        target.file(name, content)


class _BoundedReads(io.FileIO):
    """A zip's table of contents is read in one piece of the size it claims: no piece may be larger than `limit`."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(path)
        self._limit = limit

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = self._limit
        if size > self._limit:
            raise too_large("its table of contents is too long")
        return super().read(size)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def too_large(why: str) -> Invalid:
    """The refusal of a bomb."""
    return Invalid(f"cannot unpack the archive: {why}", code="ARCHIVE_TOO_LARGE")


def _corrupt(why: str) -> Invalid:
    return Invalid(f"cannot unpack the archive: it is damaged or cut off ({why[:200]})", code="ARCHIVE_CORRUPT")


def _unsafe(name: str, why: str) -> Invalid:
    return Invalid(f"cannot unpack {name[:200]!r}: {why}", code="ARCHIVE_UNSAFE_PATH")


def _link(name: str) -> Invalid:
    return Invalid(f"cannot unpack {name[:200]!r}: links and devices are not taken", code="ARCHIVE_LINK")
