"""`aiwm COMMAND`: sends each command to its own entry, and loads nothing that the others need."""

import asyncio
import sys
from collections.abc import Sequence
from importlib import import_module

_SERVICES = ("controller", "noti", "worker")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 when it went well, 1 when it failed, 2 when it was called wrongly."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given[0] if given else ""
    if command == "node":
        from aiwm.daemon.main import run_module

        return run_module(given[1:])
    if command == "doctor":
        from aiwm.daemon.doctor import main as doctor

        return doctor(given[1:])
    if command == "up":
        from aiwm.apps.up.main import main as up

        return up(given[1:])
    if command == "audit":
        from aiwm.apps.audit import main as audit

        return audit(given[1:])
    if command == "keys":
        from aiwm.apps.keys import main as keys

        return keys(given[1:])
    if command == "simulate":
        from aiwm.testing.simulate import main as simulate

        return simulate(given[1:])
    if command in _SERVICES:
        return _service(command, given[1:])
    from aiwm.cli.main import app

    app(args=given, prog_name="aiwm")
    return 0


def _service(name: str, arguments: Sequence[str]) -> int:
    from aiwm.apps import process
    from aiwm.kit.settings import Settings

    async def run(settings: Settings, stop: asyncio.Event, **hidden: str) -> None:
        # Imported only now: `--help` and a wrong setting need no web framework.
        await import_module(f"aiwm.apps.{name}").run(settings, stop, **hidden)

    return process.main(name, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
