"""Durable file steps for the local object store: what returned is on the disk, what failed is not there."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from aiwm.kit.ids import new_id
from aiwm.protocol.errors import Conflict, Unavailable

STALE_SECONDS = 24 * 3600
_PLACING_TRIES = 20


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Says a full or failing disk in our own words; a missing file passes through."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unavailable(f"cannot {what}: {error.strerror or error}", code="OBJECTS_UNAVAILABLE") from error


def make_folder(folder: Path) -> None:
    """Makes `folder` and its parents, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes the entries of `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def place(written: Path, target: Path) -> None:
    """Moves a finished file to its place, durably; folders that a delete takes away meanwhile are made again."""
    for _ in range(_PLACING_TRIES):
        try:
            make_folder(target.parent)
            written.replace(target)
            sync_folder(target.parent)
        except FileNotFoundError:
            continue
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            raise Conflict(
                f"cannot store {target.name!r}: a key is already a folder there, or a folder a key", code="KEY_CONFLICT"
            ) from error
        return
    raise Unavailable(f"cannot store {target.name!r}: its folder keeps vanishing", code="OBJECTS_UNAVAILABLE")


def finish(out: BinaryIO) -> None:
    """Makes a file's content durable."""
    out.flush()
    os.fsync(out.fileno())


@contextlib.contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """A file name in `folder` to write to; whatever is still there at the end is removed."""
    path = folder / new_id("draft")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes drafts that a killed process left behind a day ago or earlier."""
    oldest = time.time() - STALE_SECONDS
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_mtime < oldest:
                entry.unlink()


def prune(folder: Path, root: Path) -> None:
    """Removes `folder` and its parents below `root` as far as they are empty."""
    while folder != root:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def append_file(source: Path, out: BinaryIO) -> None:
    """Appends all of `source` to `out`, without passing through this process where the kernel can."""
    with source.open("rb") as part:
        left = os.fstat(part.fileno()).st_size
        while left > 0:
            done = os.sendfile(out.fileno(), part.fileno(), None, min(left, 2**30))
            if done == 0:
                raise OSError(f"{source.name} became shorter while it was read")
            left -= done
