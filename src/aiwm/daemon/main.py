"""The daemon as a process: settings in, signals, exit code out."""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator

from aiwm.daemon.daemon import Daemon, node_dir
from aiwm.kit.logs import configure_logging
from aiwm.kit.settings import Settings, SettingsError, load_settings

log = logging.getLogger(__name__)


def main(settings: Settings, *, lifeline: int | None = None) -> int:
    """Runs a node until SIGINT or SIGTERM: 0. A setting or folder that cannot be used: one line and 2; a bug: 1."""
    configure_logging("node", settings.log_level)
    try:
        _require(settings)
        with _alone(settings):
            return asyncio.run(_run(settings, lifeline))
    except SettingsError as error:
        print(f"aiwm node: {error}", file=sys.stderr)
        return 2


def _require(settings: Settings) -> None:
    if not settings.controller_url:
        raise SettingsError("AIWM_CONTROLLER_URL is not set; it is the controller's address, like https://aiwm:3003")
    if not settings.node_token:
        raise SettingsError("AIWM_NODE_TOKEN is not set; make one with: POST /api/v1/nodes/{nodeId}/token")


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One daemon per data folder: two would fight over the same engines."""
    folder = node_dir(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "daemon.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"cannot use the data folder {settings.data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SettingsError(f"another node daemon uses the data folder {settings.data_dir}") from None
    try:
        yield
    finally:
        os.close(lock)


async def _run(settings: Settings, lifeline: int | None) -> int:
    daemon = Daemon(settings, lifeline=lifeline)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, daemon.stop)
    try:
        await daemon.run()
    except Exception:
        log.exception("the daemon ends because a part of it failed")
        return 1
    return 0


def run_module(arguments: list[str]) -> int:
    """`python -m aiwm.daemon`: settings from the environment; `--lifeline-fd` is for a parent that ends its engines."""
    if arguments[:1] in (["install"], ["uninstall"]):
        from aiwm.daemon.service_command import main as service

        return service(arguments[0], arguments[1:])
    parser = argparse.ArgumentParser(
        prog="aiwm node",
        description="Runs this machine as a node of the controller.",
        epilog="As a service of systemd: aiwm node install, aiwm node uninstall. What is wrong here: aiwm doctor.",
    )
    parser.add_argument("--controller-url")
    parser.add_argument("--data-dir")
    parser.add_argument("--tls-ca", help="file of authorities to trust besides the system's")
    parser.add_argument("--lifeline-fd", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    flags = {name: getattr(given, name) for name in ("controller_url", "data_dir", "tls_ca")}
    try:
        settings = load_settings(flags)
    except SettingsError as error:
        print(f"aiwm node: {error}", file=sys.stderr)
        return 2
    # Neither engines nor anything else this process starts may read it from the environment.
    for variable in ("AIWM_NODE_TOKEN", "NODE_TOKEN"):
        os.environ.pop(variable, None)
    return main(settings, lifeline=given.lifeline_fd)
