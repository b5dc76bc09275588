"""The root file system of an image as a tar, put together from what this machine has: an interpreter, programs, and the
libraries that all of it links. Everything belongs to root and can be read without a single capability."""

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

_LOADER = "/lib64/ld-linux-x86-64.so.2"
_LINKED = re.compile(r"(?:^\s*|=> )(/\S+) \(0x", re.MULTILINE)
# Loaded by name when a thread ends, and linked by nothing.
_UNWINDER = "libgcc_s.so.1"
_LEFT_OUT = {"test", "tests", "idlelib", "ensurepip", "site-packages", "dist-packages"}


class RootFs:
    """`libraries` is where libraries lie that the system's own loader would not find."""

    def __init__(self, tar: tarfile.TarFile, libraries: Iterable[Path] = ()) -> None:
        self._tar = tar
        self._search = ":".join(str(each) for each in libraries)
        self._binaries: list[Path] = []
        self._folders: set[PurePosixPath] = {PurePosixPath("/")}
        for name in ("/tmp", "/run", "/etc", "/lib64"):
            self._make_folder(PurePosixPath(name))
        # Whatever a loader's built-in folders are, they are this one.
        for name in ("/lib", "/usr/lib", "/usr/lib64"):
            self.link(name, "/lib64")
        self.text("/etc/passwd", "root:x:0:0:root:/tmp:/bin/sh\n")

    def file(self, source: Path, at: str) -> None:
        """A copy of the file, whatever links led to it."""
        self._make_folder(PurePosixPath(at).parent)
        self._note(source)
        self._tar.add(source, at, recursive=False, filter=_owned_by_root)

    def folder(self, source: Path, at: str, leave_out: Iterable[str] = ()) -> None:
        """A copy of everything below the folder but what is called `leave_out`."""
        unwanted = set(leave_out)
        for path, folders, files in os.walk(source, followlinks=True):
            folders[:] = sorted(set(folders) - unwanted)
            here = PurePosixPath(at, *Path(path).relative_to(source).parts)
            self._make_folder(here)
            for name in sorted(files):
                if (each := Path(path, name)).is_file():
                    self.file(each, str(here / name))

    def text(self, at: str, text: str, mode: int = 0o644) -> None:
        self._make_folder(PurePosixPath(at).parent)
        entry = tarfile.TarInfo(at)
        entry.size, entry.mode = len(text.encode()), mode
        self._tar.addfile(entry, io.BytesIO(text.encode()))

    def link(self, at: str, to: str) -> None:
        self._make_folder(PurePosixPath(at).parent)
        entry = tarfile.TarInfo(at)
        entry.type, entry.linkname = tarfile.SYMTYPE, to
        self._tar.addfile(entry)

    def program(self, name: str, at: str | None = None) -> None:
        """A program of this machine, if there is one of this name."""
        if found := shutil.which(name):
            self.file(Path(found).resolve(), at or f"/usr/bin/{name}")

    def python(self, packages: Iterable[Path]) -> None:
        """This interpreter on PATH, with `packages`, each a folder or a module, or a whole site-packages."""
        library = f"/usr/local/lib/python{sys.version_info.major}.{sys.version_info.minor}"
        self.file(Path(sys.executable).resolve(), "/usr/local/bin/python3")
        self.folder(Path(sysconfig.get_path("stdlib")), library, _LEFT_OUT)
        # Debian's interpreter looks under another name than everyone else's.
        self.link(f"{library}/dist-packages", "site-packages")
        for each in packages:
            self.folder(each, f"{library}/site-packages" + ("" if each.name == "site-packages" else f"/{each.name}"))

    def add_libraries(self) -> None:
        """What the files so far link, side by side where every loader looks."""
        found: dict[str, Path] = {}
        environment = os.environ | ({"LD_LIBRARY_PATH": self._search} if self._search else {})
        for start in range(0, len(self._binaries), 100):
            command = ["ldd", *map(str, self._binaries[start : start + 100])]
            # Of a program that links nothing it says so and fails.
            said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
            found |= {Path(path).name: Path(path) for path in _LINKED.findall(said)}
        if libc := found.get("libc.so.6"):
            found[_UNWINDER] = libc.with_name(_UNWINDER)
        for name, path in sorted(found.items()):
            self.file(path, f"/lib64/{name}")

    def _note(self, source: Path) -> None:
        if ".so" in source.name or os.access(source, os.X_OK):
            with source.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    self._binaries.append(source)

    def _make_folder(self, at: PurePosixPath) -> None:
        if at in self._folders:
            return
        self._make_folder(at.parent)
        self._folders.add(at)
        entry = tarfile.TarInfo(str(at))
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if at == PurePosixPath("/tmp") else 0o755
        self._tar.addfile(entry)


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode |= 0o444
    return entry


@contextmanager
def rootfs(path: Path, libraries: Iterable[Path] = ()) -> Iterator[RootFs]:
    """Writes the tar at `path`, which is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with tarfile.open(draft, "w", dereference=True) as tar:
            root = RootFs(tar, libraries)
            yield root
            root.add_libraries()
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
