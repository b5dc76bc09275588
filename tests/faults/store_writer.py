"""A process to be killed: writes to a store as fast as it can and prints what was acknowledged, when it was.

It starts slowly and forks quickly: each line on standard input, `URL ROUND MODE`, makes one child that writes. Lines on
standard output: `pid N`, the child's acknowledgements, `ended STATUS`.
"""

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Coroutine

import aiwm.infra.store.mongo  # noqa: F401 - loaded before the fork, not after each
from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Index, Query, Store, Where
from aiwm.protocol.errors import Conflict, Unavailable

WRITERS = 8
INCREMENTS = 40
UNAVAILABLE = 3
"""The exit status of a writer whose store went away."""


def say(line: str) -> None:
    """One write, so that a kill leaves no half line."""
    os.write(1, f"{line}\n".encode())


async def _write(store: Store, round_name: str, writer: int) -> None:
    number = 0
    while True:
        record_id = f"{round_name}-{writer}-{number}"
        await store.insert("kept", {"id": record_id, "value": 1, "twin": 1, "round": round_name})
        say(f"inserted {record_id}")
        assert await store.replace("kept", {"id": record_id, "value": 2, "twin": 2, "round": round_name}, version=1)
        say(f"replaced {record_id}")
        number += 1


async def write_forever(store: Store, round_name: str) -> None:
    """Inserts and replaces until killed."""
    await asyncio.gather(*(_write(store, round_name, writer) for writer in range(WRITERS)))


async def increment(store: Store, round_name: str) -> None:
    """Makes a table, an index and a shared counter, and adds to the counter without losing anyone's addition."""
    await store.ensure_index(Index("counters", ("owner",), unique=True))
    try:
        await store.insert("counters", {"id": "shared", "count": 0, "owner": "all"})
    except Conflict:
        say("found the counter")
    done = 0
    while done < INCREMENTS:
        [found] = await store.find("counters", Query((Where("owner", "eq", "all"),)))
        version, count = int(str(found["version"])), int(str(found["count"]))
        changed = {"id": "shared", "count": count + 1, "owner": "all"}
        done += await store.replace("counters", changed, version=version)
        await store.insert(f"own_{round_name}", {"id": f"{done}-{version}"})


MODES: dict[str, Callable[[Store, str], Coroutine[object, object, None]]] = {
    "forever": write_forever,
    "increment": increment,
}


async def _child(url: str, round_name: str, mode: str) -> None:
    store = await open_store(url)
    try:
        await MODES[mode](store, round_name)
    finally:
        await store.close()


def _live(url: str, round_name: str, mode: str) -> None:
    status = 1
    try:
        asyncio.run(_child(url, round_name, mode))
        status = 0
    except Unavailable:
        status = UNAVAILABLE
    finally:
        if status == 1:
            traceback.print_exc()
        # Not by returning: the lines that wait on standard input are the parent's.
        os._exit(status)


def main() -> None:
    """Serves lines until standard input ends."""
    say("ready")
    for line in sys.stdin:
        url, round_name, mode = line.split()
        pid = os.fork()
        if pid == 0:
            _live(url, round_name, mode)
        say(f"pid {pid}")
        _, status = os.waitpid(pid, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
