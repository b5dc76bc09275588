"""The daemon as a process: settings in, signals, exit code out."""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path

from aiwm.daemon.daemon import Daemon, node_dir
from aiwm.daemon.join import Joiner, not_joined, read_identity
from aiwm.daemon.link import base_url
from aiwm.kit.clock import SystemClock
from aiwm.kit.logs import configure_logging
from aiwm.kit.open_files import raise_open_files
from aiwm.kit.settings import Settings, SettingsError, load_settings, read_secret

log = logging.getLogger(__name__)


def main(settings: Settings, *, lifeline: int | None = None) -> int:
    """Runs a node until SIGINT or SIGTERM: 0. A setting, folder or join token that cannot be used: one line and 2;
    a bug: 1.
    """
    configure_logging("node", settings.log_level)
    raise_open_files()
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
    if not (settings.node_token or settings.join_token or read_identity(node_dir(settings))):
        raise SettingsError(not_joined())


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
    joiner = Joiner(settings, node_dir(settings), base_url(settings.controller_url), SystemClock())
    token = await _unless_told_to_end(joiner.enter())
    if token is None:
        return 0
    daemon = Daemon(replace(settings, node_token=token), lifeline=lifeline, joiner=joiner)
    _on_signals(daemon.stop)
    try:
        await daemon.run()
    except Exception:
        log.exception("the daemon ends because a part of it failed")
        return 1
    return 0


def _on_signals(act: Callable[[], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, act)


async def _unless_told_to_end(work: Coroutine[object, object, str]) -> str | None:
    """What `work` returns; None when a signal came before."""
    task, told = asyncio.ensure_future(work), asyncio.Event()

    def end() -> None:
        told.set()
        task.cancel()

    _on_signals(end)
    await asyncio.wait({task})
    return None if told.is_set() else task.result()


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
    parser.add_argument("--name", dest="node_name", help="what it is called when it joins (default: the host's name)")
    parser.add_argument("--join-token-file", type=Path, help="file of a join token: what makes this machine a node")
    parser.add_argument("--tls-ca", help="file of authorities to trust besides the system's")
    parser.add_argument("--lifeline-fd", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    flags = {name: getattr(given, name) for name in ("controller_url", "data_dir", "tls_ca", "node_name")}
    try:
        if given.join_token_file is not None:
            flags["join_token"] = read_secret("--join-token-file", str(given.join_token_file))
        settings = load_settings(flags)
    except SettingsError as error:
        print(f"aiwm node: {error}", file=sys.stderr)
        return 2
    # Neither engines nor anything else this process starts may read it from the environment.
    for variable in ("AIWM_NODE_TOKEN", "NODE_TOKEN", "AIWM_JOIN_TOKEN"):
        os.environ.pop(variable, None)
    return main(settings, lifeline=given.lifeline_fd)
