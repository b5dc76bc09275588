"""Keeps the table of containers true: by Docker's events, and by a full list whenever those were interrupted."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiwm.daemon.launchers.docker_api import DockerApi, Inspected
from aiwm.daemon.launchers.docker_config import FOLDER
from aiwm.daemon.launchers.docker_table import Table
from aiwm.daemon.launchers.port import Running
from aiwm.kit.backoff import delays
from aiwm.protocol.errors import AiwmError

log = logging.getLogger(__name__)

PING_EVERY_SECONDS = 10.0
_OPEN_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0


class Watch:
    """`away` is why Docker cannot be asked now, `reached` whether it ever could."""

    def __init__(self, api: DockerApi, table: Table) -> None:
        self._api, self._table = api, table
        self.away: str | None = None
        self.reached = False

    async def open(self) -> None:
        """Lists what there is, if Docker answers soon."""
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await self._list()
        except TimeoutError:
            self._lose(f"cannot reach Docker at {self._api.host}: no answer for {_OPEN_SECONDS:.0f} s")
        except AiwmError as error:
            self._lose(error.message)

    async def follow(self) -> None:
        """Until cancelled."""
        pauses = delays(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            try:
                async with self._api.events() as events:
                    # What happens from here on is among the events: between the two nothing is missed.
                    await self._list()
                    pauses = delays(_FIRST_PAUSE, _LONGEST_PAUSE)
                    await self._take_all(events)
                self._lose(f"cannot reach Docker at {self._api.host}: it ended the connection")
            except AiwmError as error:
                self._lose(error.message)
            await asyncio.sleep(next(pauses))

    def _lose(self, reason: str) -> None:
        if self.away is None and self.reached:
            log.warning("%s; containers are taken to run on", reason)
        self.away = reason

    async def _list(self) -> None:
        # One that is made meanwhile is not among those that Docker names.
        before = self._table.containers()
        seen: dict[Path, Inspected] = {}
        for container in await self._api.ours():
            inspected = await self._api.inspect(container)
            if inspected is None or FOLDER not in (inspected["Config"]["Labels"] or {}):
                continue
            folder = Path(inspected["Config"]["Labels"][FOLDER])
            # What half a start left behind says nothing beside one that runs.
            if folder not in seen or inspected["State"]["Running"]:
                seen[folder] = inspected
        for folder, inspected in seen.items():
            self._table.see(folder, inspected, outage=self.away is not None)
        self._table.listed = True
        for folder in before.keys() - seen.keys():
            self._table.lose(folder, before[folder])
        if self.away is not None and self.reached:
            log.info("Docker at %s is back", self._api.host)
        self.away, self.reached = None, True

    async def _take_all(self, events: AsyncIterator[Inspected]) -> None:
        """Until Docker ends them, or answers nothing beside them: one that hangs keeps its connections open."""
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait({coming}, timeout=PING_EVERY_SECONDS))[0]:
                    await self._api.ping()
            except BaseException:
                coming.cancel()
                await asyncio.wait({coming})
                raise
            if (event := await coming) is None:
                return
            await self._take(event)

    async def _take(self, event: dict[str, Any]) -> None:
        actor = event["Actor"]
        if FOLDER not in actor["Attributes"]:
            return
        folder, container = Path(actor["Attributes"][FOLDER]), str(actor["ID"])
        known = self._table.find(folder)
        if event["Action"] == "kill":
            if known is not None and known.id == container and not known.ending:
                known.killed = int(actor["Attributes"].get("signal", 0))
            return
        inspected = None if event["Action"] == "destroy" else await self._api.inspect(container)
        if inspected is None:
            self._table.lose(folder, container)
            return
        known = self._table.find(folder)
        if known is None and not inspected["State"]["Running"]:
            # It was ended and forgotten while Docker answered.
            return
        before = None if known is None else known.status
        self._table.see(folder, inspected)
        known = self._table.find(folder)
        if known is not None and isinstance(before, Running) and known.status != before:
            log.info("container %s is %s", known.name, inspected["State"]["Status"])
            with contextlib.suppress(OSError):
                self._table.note(folder, known)
