"""How a SQLite file is opened, and what its errors mean to those who run it.

Several processes hold one file at once. Most waiting is SQLite's own busy timeout; opening needs retries on top,
because switching a new file to write-ahead logging fails at once when two do it together.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from aiwm.kit.backoff import delays
from aiwm.protocol.errors import Conflict, Invalid, Unavailable

MEMORY = ":memory:"
BUSY_SECONDS = 30.0

_CONTENDED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_CAUSES = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "the file cannot be written; check the permissions of it and of its folder",
    sqlite3.SQLITE_PERM: "the file cannot be opened; check the permissions of it and of its folder",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check that its folder exists and can be written",
    sqlite3.SQLITE_IOERR: "reading or writing the disk failed; check the disk",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database; name another one",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
    sqlite3.SQLITE_TOOBIG: "the record is too big",
    sqlite3.SQLITE_BUSY: f"another process has been writing for {BUSY_SECONDS:.0f} s; end it or wait",
    sqlite3.SQLITE_PROTOCOL: "the file's locks do not work; it must be on a local disk",
}


def code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 when the error is not SQLite's own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def contended(error: sqlite3.Error) -> bool:
    """Whether another connection was in the way."""
    return code(error) in _CONTENDED


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Within it SQLite's errors become ours; a wrong statement, which only a bug can cause, stays what it is."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise Conflict(f"cannot store the record: {_collision(error)}", code="DUPLICATE") from error
    except sqlite3.Error as error:
        if (cause := _CAUSES.get(code(error))) is None:
            raise
        raise Unavailable(f"cannot use the store {where}: {cause}", details={"reason": str(error)}) from error
    except UnicodeEncodeError as error:
        raise Invalid("cannot use text with lone surrogates: it is not valid Unicode") from error


def _collision(error: sqlite3.IntegrityError) -> str:
    if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
        return "its id is taken"
    return f"another one has the same unique key ({error})"


def connect(path: str, *, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """A connection for one thread at a time; statements commit by themselves. Raises `sqlite3.Error`."""
    if path == MEMORY:
        return _configured(sqlite3.connect(path, isolation_level=None, check_same_thread=False))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _patiently(lambda: _write_ahead(connection))
        # FULL: what was acknowledged survives the loss of power, not only the death of a process.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA busy_timeout={int(busy_seconds * 1000)}")
        return _configured(connection)
    except BaseException:
        connection.close()
        raise


def make_private(path: str) -> None:
    """Makes the file, if it is missing, readable by its owner only: it holds password hashes and sealed secrets."""
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _write_ahead(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode=WAL")


def _patiently(attempt: Callable[[], object]) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    for delay in delays(0.001, 0.02):
        try:
            attempt()
        except sqlite3.OperationalError as error:
            if not contended(error) or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(delay)


def _configured(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.create_function("contains", 2, _contains, deterministic=True)
    return connection


def _contains(text: object, needle: str) -> bool:
    return isinstance(text, str) and needle.lower() in text.lower()
