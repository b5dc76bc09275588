"""The data folder of one `aiwm up`: usable, its own alone, and free of what an earlier one left running."""

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from aiwm.kit.settings import SettingsError

_LEFTOVER_SECONDS = 15.0


def make_folder(folder: Path) -> None:
    """Makes `folder` (0700) and tries to write into it. Raises `SettingsError`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for name in ("logs", "run", "node", "redis", "objects"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder / "run"):
            pass
    except OSError as error:
        reason = "it is not a folder" if error.errno in (errno.EEXIST, errno.ENOTDIR) else error.strerror
        raise SettingsError(
            f"cannot use the data folder {folder}: {reason}; choose another with --data-dir or AIWM_DATA_DIR"
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Holds `folder` against a second `aiwm up`; yields a lock for children to inherit.

    That second lock is free only when the last child is gone: after a `kill -9` the next `aiwm up` waits for it, so
    that it does not find the ports taken by the dying. Raises `SettingsError`.
    """
    own = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    theirs = os.open(folder / "run" / "children.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _taken(own):
            holder = os.read(own, 32).decode(errors="replace").strip()
            raise SettingsError(
                f"another aiwm up (pid {holder}) uses {folder}; end it, or choose another folder with --data-dir"
            )
        os.ftruncate(own, 0)
        os.pwrite(own, f"{os.getpid()}\n".encode(), 0)
        _wait_for_leftovers(theirs, folder)
        yield theirs
    finally:
        os.close(own)
        os.close(theirs)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_leftovers(lock: int, folder: Path) -> None:
    deadline = time.monotonic() + _LEFTOVER_SECONDS
    while not _taken(lock):
        if time.monotonic() > deadline:
            raise SettingsError(f"processes of an aiwm up that was killed still use {folder}; end them first")
        time.sleep(0.05)


def check_free(host: str, port: int, setting: str) -> None:
    """Raises `SettingsError` when nobody could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                flag = f"--{setting.removeprefix('AIWM_').lower().replace('_', '-')}"
                reason = f"another program does already; end it, or choose another port with {flag} or {setting}"
            else:
                reason = f"{error.strerror or error}; AIWM_HOST must be an address of this machine"
            raise SettingsError(f"cannot listen on {host}:{port}: {reason}") from error


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
