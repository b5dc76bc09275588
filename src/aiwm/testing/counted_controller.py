"""A controller that counts its store operations: on SIGUSR1 it writes them to the file that its last argument names."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from aiwm.apps import controller, process
from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Store
from aiwm.kit.settings import Settings
from aiwm.testing.counting import StoreCounts


def main(arguments: Sequence[str]) -> int:
    """Otherwise as `aiwm controller`."""
    *given, file = arguments
    counts = StoreCounts()

    async def open_counted(url: str) -> Store:
        return counts.over(await open_store(url))

    def write() -> None:
        draft = Path(f"{file}.new")
        draft.write_text(json.dumps({"records": counts.records, "queries": counts.queries}))
        os.replace(draft, file)

    async def run(settings: Settings, stop: asyncio.Event, **hidden: str) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, write)
        await controller.run(settings, stop, **hidden)

    with patch("aiwm.infra.build.open_store", open_counted):
        return process.main("controller", run, given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
