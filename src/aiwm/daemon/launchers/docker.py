"""Engines as containers of this machine's Docker, which outlive the daemon and are known again by their label."""

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from aiwm.daemon.engines.base import Engine, EnginePlan
from aiwm.daemon.launchers import docker_logs
from aiwm.daemon.launchers.docker_api import DockerApi, Inspected, Refused
from aiwm.daemon.launchers.docker_config import FOLDER, container_config
from aiwm.daemon.launchers.docker_images import AllowList
from aiwm.daemon.launchers.docker_network import provided
from aiwm.daemon.launchers.docker_pull import Images
from aiwm.daemon.launchers.docker_table import Known, Table
from aiwm.daemon.launchers.docker_watch import Watch
from aiwm.daemon.launchers.docker_words import refuses_memlock, start_error
from aiwm.daemon.launchers.port import NO_LIMITS, Ended, Room, Running, Tell
from aiwm.daemon.launchers.probe import all_answer
from aiwm.daemon.replicas import shorten
from aiwm.protocol.errors import AiwmError, Conflict, Unavailable
from aiwm.protocol.node_channel import DeployCommand, LogsResult
from aiwm.protocol.resources.nodes import ConditionReport
from aiwm.protocol.states import EngineName

log = logging.getLogger(__name__)

_REMOVE_SECONDS = 30.0
_OUTPUT_LINES = 1000
_OUTPUT_BYTES = 65_536
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """`host` as DOCKER_HOST has it, `allowed` are patterns of images, `listen` is where others reach this node.

    Replicas have their folders below `replicas`.
    """

    host: str = ""
    allowed: Sequence[str] = ()
    auth_file: str = ""
    listen: str = "127.0.0.1"
    replicas: Path | None = None


class DockerLauncher:
    """One container per replica, named as the order says; what is not labelled as ours is never touched."""

    def __init__(self, engines: Mapping[EngineName, Engine], settings: DockerSettings) -> None:
        self._engines, self._settings = engines, settings
        self._api = DockerApi(settings.host)
        self._table = Table()
        self._watch = Watch(self._api, self._table)
        self._images = Images(self._api, AllowList(settings.allowed), settings.auth_file)
        # Whether this Docker may let engines pin memory, for GPUs to read: until it says that it may not.
        self._memlock = True

    @property
    def names(self) -> Sequence[str]:
        return ("docker",) if self._there and self._engines else ()

    @property
    def engines(self) -> Mapping[EngineName, Engine]:
        return self._engines if self._there else {}

    @property
    def _there(self) -> bool:
        """Whether this machine has Docker, be it away just now."""
        return self._watch.reached or self._api.local or bool(self._settings.host) or self._table.used

    def engine(self, order: DeployCommand) -> Engine | None:
        return self.engines.get(order.engine)

    def check(self, order: DeployCommand) -> None:
        if order.image:
            self._images.check(order.image)

    def holds(self, folder: Path) -> bool:
        """Whether what runs in `folder`, or ran, is a container."""
        return self._table.find(folder) is not None or docker_logs.has_kept(folder)

    def forget(self, folder: Path) -> None:
        """From now on what runs in `folder` is no container."""
        docker_logs.forget(folder)

    def outlives(self, folder: Path) -> bool:  # noqa: ARG002 - it is so for all
        return True

    async def open(self) -> None:
        await self._watch.open()

    async def follow(self) -> None:
        try:
            await self._watch.follow()
        finally:
            await self.close()

    async def close(self) -> None:
        """Lets go of Docker; its containers run on."""
        await self._api.close()

    def conditions(self) -> list[ConditionReport]:
        return [*self._down(), *self._forgotten()]

    def _down(self) -> list[ConditionReport]:
        if self._watch.away is None or (self._api.named and not self._there):
            return []
        text = shorten(f"{self._watch.away}; containers that run are taken to run on, others wait for it")
        return [ConditionReport(type="ContainerRuntimeDown", status=True, reason="DockerAway", message=text)]

    def _forgotten(self) -> list[ConditionReport]:
        replicas = self._settings.replicas
        names = [] if replicas is None else self._table.forgotten(replicas)
        if not names:
            return []
        text = f"containers run here of which this node has no record; remove them: docker rm --force {' '.join(names)}"
        return [ConditionReport(type="ContainersForgotten", status=True, reason="NoRecord", message=shorten(text))]

    async def provide(self, plan: EnginePlan, tell: Tell) -> None:
        if plan.image is not None:
            await self._images.provide(plan.image, tell)

    async def start(self, folder: Path, plan: EnginePlan, room: Room = NO_LIMITS) -> Running:
        await self.stop(folder, 0)
        room = replace(room, folders=await asyncio.to_thread(_opened_up, room.folders))
        known = self._table.begin(folder, room.name or f"aiwm-{folder.name}")
        # A request that was sent is not taken back by going away: what it made must be known.
        return await _whole(self._start(folder, known, plan, room))

    async def _start(self, folder: Path, known: Known, plan: EnginePlan, room: Room) -> Running:
        network, abroad = await provided(self._api), self._settings.listen
        while True:
            config = container_config(folder, plan, room, network=network, abroad=abroad, memlock=self._memlock)
            try:
                known.id = await self._create(folder, known.name, config)
                await self._api.start(known.id)
                break
            except Refused as error:
                await self._discard(known)
                if not (self._memlock and refuses_memlock(error.words)):
                    raise start_error(error.words, plan.image) from error
                self._memlock = False
        return await self._started(folder, known)

    async def _create(self, folder: Path, name: str, config: Mapping[str, Any]) -> str:
        try:
            return await self._api.create(name, config)
        except Refused as error:
            if error.answer != 409:
                raise
            await self._make_way(folder, name)
        return await self._api.create(name, config)

    async def _make_way(self, folder: Path, name: str) -> None:
        """Removes what has the name of our container, if it is what half a start left behind."""
        found = await self._api.inspect(name)
        if found is None:
            return
        if (found["Config"]["Labels"] or {}).get(FOLDER) != str(folder):
            raise Conflict(
                f"cannot start the engine: a container that is not this replica's has the name {name}; "
                f"rename it: docker rename {name} {name}-old",
                code="CONTAINER_START_FAILED",
            )
        await self._api.remove(found["Id"])

    async def _discard(self, known: Known) -> None:
        """A start that failed leaves its container behind."""
        if known.id:
            with contextlib.suppress(AiwmError):
                await self._api.remove(known.id)
            known.id = ""

    async def _started(self, folder: Path, known: Known) -> Running:
        inspected = await self._api.inspect(known.id)
        if inspected is None:
            known.status = Ended("is gone: its container was removed as soon as it was started")
            return Running(0, 0)
        self._table.see(folder, inspected)
        self._table.note(folder, known)
        return known.status if isinstance(known.status, Running) else Running(0, 0)

    def status(self, folder: Path) -> Running | Ended | None:
        known = self._table.find(folder)
        return None if known is None else known.status

    async def ready(self, folder: Path, probes: tuple[str, ...]) -> bool:
        status = self.status(folder)
        # What is paused answers nothing, and each probe would wait for that.
        return isinstance(status, Running) and status.note is None and await all_answer(probes)

    async def stop(self, folder: Path, grace: float) -> None:
        known = self._table.find(folder)
        if known is None:
            return
        known.ending = True
        try:
            await _whole(self._end(folder, grace))
        except Refused as error:
            raise Unavailable(f"cannot end container {known.name}: {error.words}", code="NETWORK_ERROR") from error
        finally:
            known.ending = False
        self._table.forget(folder)

    async def _end(self, folder: Path, grace: float) -> None:
        deadline = time.monotonic() + grace + _REMOVE_SECONDS
        while containers := await self._api.ours(folder):
            for each in containers:
                try:
                    await self._api.stop(each, grace)
                    await self._keep_log(folder, each)
                    await self._api.remove(each)
                except Refused as error:
                    log.info("container %s is not gone yet: %s", each, error.words)
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.1)

    async def _keep_log(self, folder: Path, container: str) -> None:
        with contextlib.suppress(Refused, OSError):
            async with self._api.log(container, tail=str(_OUTPUT_LINES)) as stream:
                docker_logs.keep(folder, await docker_logs.newest(docker_logs.lines(stream)))

    async def output(self, folder: Path) -> str:
        with contextlib.suppress(AiwmError):
            if (inspected := await self._inspected(folder)) is not None:
                begin = docker_logs.since(docker_logs.begin(inspected["State"]["StartedAt"]))
                async with self._api.log(inspected["Id"], since=begin, tail=str(_OUTPUT_LINES)) as stream:
                    found = await docker_logs.newest(docker_logs.lines(stream), _OUTPUT_BYTES)
                return b"".join(text for _, text in found).decode(errors="replace")
        return ""

    async def logs(self, folder: Path, *, tail: int, offset: int | None) -> LogsResult:
        inspected = await self._inspected(folder)
        if inspected is None:
            found = await asyncio.to_thread(docker_logs.kept, folder)
            return docker_logs.tail(found, tail) if offset is None else docker_logs.after(found, offset)
        try:
            if offset is None:
                async with self._api.log(inspected["Id"], tail=str(tail)) as stream:
                    return docker_logs.tail(await docker_logs.newest(docker_logs.lines(stream)), tail)
            async with self._api.log(inspected["Id"], since=docker_logs.since(offset)) as stream:
                return docker_logs.after(await docker_logs.oldest(docker_logs.lines(stream)), offset)
        except Refused as error:
            raise Unavailable(f"cannot read the engine's output: {error.words}") from error

    async def _inspected(self, folder: Path) -> Inspected | None:
        known = self._table.find(folder)
        return await self._api.inspect(known.id) if known is not None and known.id else None


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """Lets `work` come to its end also when its caller is cancelled."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _opened_up(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Those of `folders` that are there, readable for a container, whose root is anybody without its capabilities.

    On this machine nobody else comes as far: the folder above is the daemon's alone.
    """
    for folder in folders:
        for path, _, files in os.walk(folder):
            for each in (path, *(os.path.join(path, name) for name in files)):
                mode = os.lstat(each).st_mode
                wanted = 0o555 if stat.S_ISDIR(mode) else 0o444
                if not stat.S_ISLNK(mode) and mode & wanted != wanted:
                    os.chmod(each, stat.S_IMODE(mode) | wanted)
    return tuple(folder for folder in folders if folder.is_dir())
