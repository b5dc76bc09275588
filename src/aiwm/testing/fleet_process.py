"""A fleet in a process of its own, which answers questions: for benchmarks that pin it apart from the controller.

Each line of standard input is one question (`count`, `starts`, `cut`, `heal`), each line of standard output its answer
as JSON; it ends with its input. The controller and admin's password are those of the settings.
"""

import asyncio
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from aiwm.kit.logs import configure_logging
from aiwm.kit.open_files import raise_open_files
from aiwm.kit.settings import load_settings
from aiwm.sdk.client import Client
from aiwm.testing import enrolment
from aiwm.testing.fleet import Fleet
from aiwm.testing.weather import WeatherLoop


def main(nodes: int) -> None:
    """Runs `nodes` nodes."""
    configure_logging("simulate", "ERROR")
    raise_open_files()
    with asyncio.Runner(loop_factory=WeatherLoop) as runner:
        runner.run(_serve(nodes))


async def _serve(nodes: int) -> None:
    settings = load_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="simulate-", dir=settings.data_dir) as folder:
        async with Fleet(settings, Path(folder)) as fleet:
            answering = asyncio.create_task(_answer(fleet))
            async with Client(settings.controller_url) as client:
                await client.login("admin", settings.admin_password)
                async for name, token in enrolment.enrol(client, nodes):
                    fleet.start(name, token, nodes=nodes)
            await answering


async def _answer(fleet: Fleet) -> None:
    loop = asyncio.get_running_loop()
    questions = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)
    while question := (await questions.readline()).decode().strip():
        if question == "cut":
            fleet.weather.cut()
        elif question == "heal":
            fleet.weather.heal()
        answer: object = fleet.starts() if question == "starts" else dataclasses.asdict(fleet.count())
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
