"""`aiwm simulate`: a fleet of nodes without machines, to try a controller's size and its nerves."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from aiwm.cli.credentials import load_credentials, renewing, save_credentials
from aiwm.kit.logs import configure_logging
from aiwm.kit.open_files import raise_open_files
from aiwm.kit.settings import Settings, SettingsError, load_settings
from aiwm.protocol.errors import AiwmError, Invalid
from aiwm.protocol.resources.access import TokenPair
from aiwm.sdk.client import Client
from aiwm.testing import enrolment
from aiwm.testing.fleet import Count, Fleet
from aiwm.testing.progress import Progress
from aiwm.testing.simulate_options import Options, parse
from aiwm.testing.weather import WeatherLoop

_FILES_BESIDE_LINKS = 256
_REMOVAL_SECONDS = 7.0


def main(arguments: Sequence[str]) -> int:
    """Runs until Ctrl-C, SIGTERM or `--seconds`; 0, 1 when something failed, 2 when it was called wrongly."""
    given = parse(arguments)
    configure_logging("simulate", given.log_level)
    try:
        settings = load_settings({"data_dir": given.data_dir, "tls_ca": given.tls_ca})
        with asyncio.Runner(loop_factory=WeatherLoop) as runner:
            return runner.run(_run(given, settings))
    except SettingsError as error:
        return _refused(str(error), 2)
    except AiwmError as error:
        return _refused(error.message, 1)
    except OSError as error:
        return _refused(f"cannot use the data folder: {error.strerror}: {error.filename}", 2)


def _refused(why: str, code: int) -> int:
    print(f"aiwm simulate: {why}", file=sys.stderr)
    return code


async def _run(given: Options, settings: Settings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_client(given, settings))
        if given.username:
            await client.login(given.username, given.password(settings))
        await client.me()
        if given.remove:
            return await _remove(client, None, stop)
        _enough_files(given.nodes)
        run = _Simulation(given, client, replace(settings, controller_url=client.url), stop)
        return await run.go()


def _client(given: Options, settings: Settings) -> Client:
    """Signed in as `aiwm login` left it, or about to sign in at `--url`."""
    if given.url is not None:
        return Client(given.url, token=given.key(), ca_file=settings.tls_ca)
    kept = load_credentials()

    def keep(tokens: TokenPair) -> None:
        save_credentials(kept.renewed(tokens))

    return Client(
        kept.url,
        token=kept.access_token,
        refresh_token=kept.refresh_token,
        on_tokens=keep,
        shared=renewing,
        ca_file=settings.tls_ca,
    )


def _enough_files(nodes: int) -> None:
    allowed, needed = raise_open_files(), nodes + _FILES_BESIDE_LINKS
    if allowed < needed:
        raise Invalid(
            f"cannot simulate {nodes} nodes: this process may have {allowed} open files and needs {needed}; "
            f"raise the limit with: ulimit -n {needed}"
        )


@dataclass(slots=True)
class _Simulation:
    given: Options
    client: Client
    settings: Settings
    stop: asyncio.Event

    async def go(self) -> int:
        """From the first node to the summary."""
        given = self.given
        self.settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix="simulate-", dir=self.settings.data_dir) as folder:
            fleet = Fleet(self.settings, Path(folder), gpus=given.gpus, faults=given.faults, seed=given.seed)
            progress = Progress(given.nodes, sys.stdout)
            try:
                async with fleet:
                    count = await self._live(fleet, progress)
                    progress.finish(count)
            finally:
                progress.end()
                left = 0 if given.keep else await _remove(self.client, enrolment.names(given.nodes), self.stop)
        if fleet.error is not None:
            return _refused(f"a daemon ended by a bug, the log has it: {fleet.error!r}", 1)
        return left

    async def _live(self, fleet: Fleet, progress: Progress) -> Count:
        """Until it is told to stop, its time is over, or a daemon failed."""
        enrolling = asyncio.create_task(self._enrol(fleet))
        try:
            ends: asyncio.Future[object] = asyncio.ensure_future(self._over(fleet, enrolling))
            while not ends.done():
                progress.show(fleet.count())
                await asyncio.wait({ends}, timeout=1.0)
            ends.result()
            return fleet.count()
        finally:
            enrolling.cancel()
            await asyncio.gather(enrolling, return_exceptions=True)

    async def _over(self, fleet: Fleet, enrolling: "asyncio.Task[None]") -> None:
        told = [asyncio.create_task(event.wait()) for event in (self.stop, fleet.failed)]
        try:
            await asyncio.wait({*told, enrolling}, return_when=asyncio.FIRST_COMPLETED)
            if enrolling.done():
                enrolling.result()
                await asyncio.wait(told, timeout=self.given.seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in told:
                task.cancel()

    async def _enrol(self, fleet: Fleet) -> None:
        async for name, token in enrolment.enrol(self.client, self.given.nodes):
            fleet.start(name, token, nodes=self.given.nodes)


async def _remove(client: Client, only: Sequence[str] | None, stop: asyncio.Event) -> int:
    """0 when they are all gone, else 1 and a sentence. Who was told to stop has little time for it."""
    removing = asyncio.create_task(enrolment.remove(client, only))
    told = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({removing, told}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({removing}, timeout=_REMOVAL_SECONDS)
        if not removing.done():
            return _refused("not all nodes could be removed in time; the rest goes with: aiwm simulate --remove", 1)
        kept = removing.result()
    finally:
        for task in (removing, told):
            task.cancel()
        await asyncio.gather(removing, told, return_exceptions=True)
    if kept:
        what = f"{len(kept)} of its nodes were not removed: replicas are on them"
        return _refused(f"{what}; stop their deployments, then: aiwm simulate --remove", 1)
    return 0
