"""The command: checks what could go wrong, starts everything, tells a human, and ends everything again."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from aiwm.apps.process import flag_parser, settings_of
from aiwm.apps.up.folder import check_free, locked, make_folder
from aiwm.apps.up.stack import Stack, describe
from aiwm.apps.up.supervisor import CannotStart, Supervisor
from aiwm.kit.logs import configure_logging
from aiwm.kit.settings import Settings, SettingsError

PASSWORD_FILE = "admin-password"  # noqa: S105 - a file's name
_NOTI_PORT = Settings().noti_port


def main(arguments: Sequence[str]) -> int:
    """0 after a clean stop, 1 when a service cannot be started, 2 when settings, folder or ports cannot be used."""
    began = time.monotonic()
    parser = flag_parser("up")
    parser.add_argument("--no-node", action="store_true", help="leave the local node out")
    given = parser.parse_args(arguments)
    try:
        settings = settings_of("up", given)
        configure_logging("up", "WARNING" if settings.log_level == "INFO" else settings.log_level)
        make_folder(settings.data_dir)
        with locked(settings.data_dir) as lock, _lifeline() as lifeline:
            _check_ports(settings)
            stack = describe(settings, node=not given.no_node, lock=lock, lifeline=lifeline)
            return asyncio.run(_up(stack, began))
    except SettingsError as error:
        print(f"aiwm up: {error}", file=sys.stderr)
        return 2
    except CannotStart as error:
        print(f"aiwm up: {error}", file=sys.stderr)
        return error.code


def _check_ports(settings: Settings) -> None:
    if settings.port == settings.noti_port:
        raise SettingsError(f"AIWM_PORT and AIWM_NOTI_PORT must differ, both are {settings.port}")
    check_free(settings.host, settings.port, "AIWM_PORT")
    check_free(settings.host, settings.noti_port, "AIWM_NOTI_PORT")


@contextlib.contextmanager
def _lifeline() -> Iterator[int]:
    """The read end of a pipe whose only writer is this process: it closes when we die, however we die."""
    reader, writer = os.pipe()
    try:
        yield reader
    finally:
        os.close(writer)
        os.close(reader)


async def _up(stack: Stack, began: float) -> int:
    folder = stack.settings.data_dir
    had_password = (folder / PASSWORD_FILE).exists()
    _say(f"AIWM starts in {folder}")
    async with Supervisor(folder / "run", _say) as supervisor:
        stop = _stop_on_signals(supervisor)
        starting = asyncio.create_task(_start(stack, supervisor), name="start")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        else:
            await _unless_failed(starting, stopping)
            _welcome(stack, had_password=had_password)
            _say(f"ready in {time.monotonic() - began:.1f} s; Ctrl-C ends everything")
            await stopping
        _say("ending")
    _say("ended")
    return 0


async def _unless_failed(starting: "asyncio.Task[None]", stopping: "asyncio.Task[bool]") -> None:
    if starting.exception() is not None:
        stopping.cancel()
    await starting


def _stop_on_signals(supervisor: Supervisor) -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; a second one ends what is left at once."""
    stop = asyncio.Event()

    def told() -> None:
        if stop.is_set():
            supervisor.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told)
    return stop


async def _start(stack: Stack, supervisor: Supervisor) -> None:
    if stack.redis is not None:
        supervisor.start(stack.redis)
        await supervisor.ready(stack.redis.name)
    for service in reversed(stack.servers):
        supervisor.start(service)
    await supervisor.ready(*(service.name for service in stack.servers))
    if stack.node is not None:
        supervisor.start(stack.node)
        await supervisor.ready(stack.node.name)


def _welcome(stack: Stack, *, had_password: bool) -> None:
    settings = stack.settings
    if settings.plain_abroad:
        _say(f"warning: plain HTTP on {settings.host}: set AIWM_TLS_CERT and AIWM_TLS_KEY, see docs/tls.md")
    _say(f"  controller     {stack.controller_url}  (API: /api-docs)")
    _say(f"  notifications  {stack.noti_url}")
    if stack.node is not None:
        _say("  node           local, this machine")
    password = settings.data_dir / PASSWORD_FILE
    if password.exists() and not had_password:
        _say(f"  first login    admin / {password.read_text().strip()}  (shown this once, kept in {password})")
    _say("try, in another terminal:")
    command = _command()
    login = f"login --url {stack.controller_url}"
    if settings.noti_port != _NOTI_PORT:
        login += f" --noti-url {stack.noti_url}"
    for words in (login, "nodes ls", "watch"):
        _say(f"  {command} {words}")


def _command() -> str:
    """How this program can be called from here."""
    here = Path(sys.argv[0])
    if shutil.which("aiwm") == str(here) or here.name != "aiwm":
        return "aiwm"
    with contextlib.suppress(ValueError):
        return str(here.absolute().relative_to(Path.cwd()))
    return str(here)


def _say(line: str) -> None:
    # Who reads may go away before us.
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)
