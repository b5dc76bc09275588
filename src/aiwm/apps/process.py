"""What every server process shares: flags over settings, signals, logging, exit codes."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from pathlib import Path

from uvloop import new_event_loop

from aiwm.kit.garbage import collect_seldom
from aiwm.kit.logs import configure_logging
from aiwm.kit.open_files import raise_open_files
from aiwm.kit.settings import OF_ENGINES, Settings, SettingsError, injected, load_settings
from aiwm.protocol.errors import AiwmError

log = logging.getLogger(__name__)

_ABOUT = {
    "controller": "The AIWM service: REST, node channel, inference gateway, reconciler.",
    "noti": "The NOTI service: live notifications and inboxes.",
    "worker": "The job worker: downloads, unpacking, schedules.",
    "up": "Everything on this machine: Redis, store, objects, controller, NOTI, worker and a local node.",
}
_EVERYWHERE = ("data_dir", "objects_url", "log_level")
_SERVING = ("host", "port", "noti_port", "public_url", "allowed_origins", "tls_cert", "tls_key")
_LEAVE_GIVEN = ("trust_remote_code", "custom_commands")
_ENGINES = tuple(name for name in OF_ENGINES if name not in _LEAVE_GIVEN)
_FLAGS = {
    "controller": (*_EVERYWHERE, *_SERVING),
    "noti": (*_EVERYWHERE, *_SERVING),
    "worker": (*_EVERYWHERE, "public_url", "hf_endpoint"),
    "up": (*_EVERYWHERE, *_SERVING, "tls_ca", "advertise_host", *_ENGINES, "hf_endpoint"),
}
_HIDDEN = {"controller": ("local_node_file",)}
_STOP_SECONDS = 8.0
_END_SECONDS = 9.5


def flag_parser(service: str) -> argparse.ArgumentParser:
    """The flags of `service`: its settings but for secrets, which other users would read in the process list."""
    parser = argparse.ArgumentParser(prog=f"aiwm {service}", description=_ABOUT[service], allow_abbrev=False)
    parser.add_argument("--config", type=Path, help="settings file (default: aiwm.toml in this folder)")
    for each in fields(Settings):
        if each.name in _FLAGS[service]:
            about = f"{each.metadata['about']} (default: {each.default})" if each.default else each.metadata["about"]
            parser.add_argument(f"--{each.name.replace('_', '-')}", help=about)
    for name in _HIDDEN.get(service, ()):
        parser.add_argument(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS)
    return parser


def settings_of(service: str, given: argparse.Namespace) -> Settings:
    """Flags over environment over file over defaults. Raises `SettingsError`."""
    flags = {name: getattr(given, name) for name in _FLAGS[service]}
    return load_settings(flags, config=given.config)


def main(service: str, run: Callable[..., Awaitable[None]], arguments: Sequence[str]) -> int:
    """Runs `run(settings, stop)` until it ends or SIGINT or SIGTERM comes; the exit code: 0, 1 failed, 2 refused.

    A hidden flag that was given goes to `run` by name. `SettingsError` and `AiwmError` are one line on standard
    error, anything else is a bug with its traceback in the log.
    """
    given = flag_parser(service).parse_args(arguments)
    try:
        settings = settings_of(service, given)
        configure_logging(service, settings.log_level)
        raise_open_files()
        collect_seldom()
        for variable in injected(os.environ):
            log.warning("ignored %s, which looks injected by a container link", variable)
        hidden = {name: getattr(given, name) for name in _HIDDEN.get(service, ()) if getattr(given, name)}
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_until_stopped(service, settings, lambda stop: run(settings, stop, **hidden)))
    except SettingsError as error:
        print(f"aiwm {service}: {error}", file=sys.stderr)
        return 2
    except AiwmError as error:
        print(f"aiwm {service}: {error.message}", file=sys.stderr)
        return 1


async def _until_stopped(service: str, settings: Settings, run: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        if stop.is_set():
            return
        # A thread that hangs would keep the interpreter from ending: the last word is a timer's.
        last_word = threading.Timer(_END_SECONDS, os._exit, (1,))
        last_word.daemon = True
        last_word.start()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    log.info("%s starts", service, extra={"pid": os.getpid(), "dataDir": str(settings.data_dir)})
    running = asyncio.ensure_future(run(stop))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await asyncio.wait({running}, timeout=_STOP_SECONDS)
    if not running.done():
        log.warning("%s did not end within %s s and is cut off", service, _STOP_SECONDS)
        running.cancel()
        return 1
    try:
        running.result()
    except (SettingsError, AiwmError):
        raise
    except Exception:
        log.exception("%s ends because a part of it failed", service)
        return 1
    log.info("%s ended", service)
    return 0
