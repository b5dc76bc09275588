"""A process under a supervisor of tiny shell services, run by itself because it adopts and ends every orphan below it.

`python up_harness.py SPEC`: SPEC is JSON with `folder`, `policy` and `services` (`name`, `script`, `readyFile`?).
"""

import asyncio
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from aiwm.apps.up.supervisor import CannotStart, Policy, Service, Supervisor


async def _missing(path: Path) -> str:
    return "" if path.exists() else f"no {path.name}"  # noqa: ASYNC240 - a test's own file


def _service(spec: dict[str, Any], folder: Path) -> Service:
    return Service(
        name=spec["name"],
        arguments=("/bin/sh", "-c", spec["script"]),
        environment=dict(os.environ),
        log=folder / f"{spec['name']}.log",
        missing=partial(_missing, folder / spec["readyFile"]) if "readyFile" in spec else None,
        patience=0.3,
    )


async def main(spec: dict[str, Any]) -> int:
    """Starts all, says `ready`, ends them at SIGTERM."""
    folder = Path(spec["folder"])
    stop = asyncio.Event()
    supervisor = Supervisor(folder, lambda line: print(line, flush=True), Policy(**spec["policy"]))

    def told() -> None:
        if stop.is_set():
            supervisor.hurry()
        stop.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told)
    try:
        async with supervisor:
            for each in spec["services"]:
                supervisor.start(_service(each, folder))
            await supervisor.ready(*(each["name"] for each in spec["services"]))
            print("ready", flush=True)
            await stop.wait()
    except CannotStart as error:
        print(error, flush=True)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(json.loads(Path(sys.argv[1]).read_text()))))
