"""A model's files as they lie in its folder: plain files alone, read in bounded pieces."""

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath

from aiwm.protocol.errors import Invalid

_MOST_TEXT = 2**20
_DEEPEST = 32

Parts = tuple[str, ...]


def unusable(reason: str) -> Invalid:
    """The error that says why these files cannot be served, and what to do."""
    return Invalid(f"cannot serve the model: {reason}", code="COMMAND_INVALID")


class Files:
    """The files below `root`, by their paths relative to it."""

    def __init__(self, root: Path, paths: Iterable[PurePosixPath]) -> None:
        self.root = root
        self.paths = sorted(paths)
        self._known = frozenset(self.paths)
        self._held = _held(self.paths)
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

    def names(self, folder: PurePosixPath) -> set[str]:
        """What the files and folders directly in `folder` are called."""
        return self._held.get(folder.parts, set())

    def folders(self, folder: PurePosixPath) -> list[PurePosixPath]:
        """The folders directly in `folder`."""
        return sorted(folder / name for name in self.names(folder) if (*folder.parts, name) in self._held)

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


def _held(paths: Iterable[PurePosixPath]) -> dict[Parts, set[str]]:
    """The names in each folder, with every folder looked at once however many files are below it."""
    held: dict[Parts, set[str]] = {}
    for path in paths:
        for folder in folders_of(path):
            known = folder in held
            held.setdefault(folder, set()).add(path.parts[len(folder)])
            if known:
                break
    return held


def folders_of(path: PurePosixPath) -> Iterator[Parts]:
    """The folders that `path` is in, from the innermost to the outermost, as parts: very many are quick to look up."""
    parts = path.parts
    return (parts[:depth] for depth in range(len(parts) - 1, -1, -1))


def read_folder(root: Path) -> Files:
    """The files below `root`.

    Raises `Invalid` for links, which may lead out of it, for devices and pipes, and for folders in folders without end.
    """
    return Files(root, _walk(root))


def _walk(root: Path) -> Iterator[PurePosixPath]:
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = PurePosixPath(Path(entry.path).relative_to(root))
                if len(path.parts) > _DEEPEST:
                    raise unusable(f"{path} has more than {_DEEPEST} parts; upload it in fewer folders")
                if entry.is_symlink():
                    raise unusable(f"{path} is a symbolic link; upload the file itself in its place")
                if entry.is_dir():
                    waiting.append(Path(entry.path))
                elif entry.is_file():
                    yield path
                else:
                    raise unusable(f"{path} is neither a file nor a folder; upload files only")
