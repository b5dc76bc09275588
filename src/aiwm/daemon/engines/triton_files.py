"""A model's files as they lie in its folder: plain files alone, read in bounded pieces."""

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath

from aiwm.protocol.errors import Invalid

_MOST_TEXT = 2**20


def unusable(reason: str) -> Invalid:
    """The error that says why these files cannot be served, and what to do."""
    return Invalid(f"cannot serve the model: {reason}", code="COMMAND_INVALID")


class Files:
    """The files below `root`, by their paths relative to it."""

    def __init__(self, root: Path, paths: Iterable[PurePosixPath]) -> None:
        self.root = root
        self.paths = sorted(paths)
        self._known = frozenset(self.paths)
        self._texts: dict[PurePosixPath, str] = {}
        self._room = _MOST_TEXT

    def __contains__(self, path: PurePosixPath) -> bool:
        return path in self._known

    def below(self, folder: PurePosixPath) -> list[PurePosixPath]:
        """Paths relative to `folder` of the files in it and in its folders."""
        depth = len(folder.parts)
        # In their order, what is below one folder stands together.
        onwards = (self.paths[index] for index in range(bisect_left(self.paths, folder), len(self.paths)))
        inside = takewhile(lambda path: path.parts[:depth] == folder.parts, onwards)
        return [PurePosixPath(*path.parts[depth:]) for path in inside if len(path.parts) > depth]

    def folders(self, folder: PurePosixPath) -> list[PurePosixPath]:
        """The folders directly in `folder`."""
        return sorted({folder / path.parts[0] for path in self.below(folder) if len(path.parts) > 1})

    def text(self, path: PurePosixPath) -> str:
        """A configuration's text. Raises `Invalid` when they are too long together to be configurations."""
        if path not in self._texts:
            self._room -= (self.root / path).stat().st_size
            if self._room < 0:
                raise unusable(
                    f"with {path} its configurations have more than {_MOST_TEXT} bytes; leave out what is no setting"
                )
            self._texts[path] = (self.root / path).read_text(errors="replace")
        return self._texts[path]

    def start(self, path: PurePosixPath, size: int) -> bytes:
        """At most the first `size` bytes."""
        with (self.root / path).open("rb") as file:
            return file.read(size)

    def end(self, path: PurePosixPath, size: int) -> bytes:
        """At most the last `size` bytes."""
        with (self.root / path).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read(size)


def read_folder(root: Path) -> Files:
    """The files below `root`. Raises `Invalid` for links, which may lead out of it, and for devices and pipes."""
    return Files(root, _walk(root))


def _walk(root: Path) -> Iterator[PurePosixPath]:
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = PurePosixPath(Path(entry.path).relative_to(root))
                if entry.is_symlink():
                    raise unusable(f"{path} is a symbolic link; upload the file itself in its place")
                if entry.is_dir():
                    waiting.append(Path(entry.path))
                elif entry.is_file():
                    yield path
                else:
                    raise unusable(f"{path} is neither a file nor a folder; upload files only")
