"""Processes and containers behind one launcher.

A plan with an image is a container's; everything else goes by what the replica's folder holds.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiwm.daemon.engines.base import Engine, EnginePlan
from aiwm.daemon.launchers.docker import DockerLauncher
from aiwm.daemon.launchers.port import NO_LIMITS, Ended, Launcher, Room, Running, Tell
from aiwm.protocol.node_channel import DeployCommand, LogsResult
from aiwm.protocol.resources.nodes import ConditionReport
from aiwm.protocol.states import EngineName


class SeveralLaunchers:
    """An engine that this machine has itself runs as a process, unless the order names an image."""

    def __init__(self, process: Launcher, docker: DockerLauncher) -> None:
        self._process, self._docker = process, docker

    @property
    def names(self) -> Sequence[str]:
        return (*self._docker.names, *self._process.names)

    @property
    def engines(self) -> Mapping[EngineName, Engine]:
        found = {**self._docker.engines, **self._process.engines}
        if EngineName.CUSTOM not in self._process.engines:
            found.pop(EngineName.CUSTOM, None)
        return found

    def engine(self, order: DeployCommand) -> Engine | None:
        if order.engine is EngineName.CUSTOM and not order.image:
            # It has no usual image: what is not a container is a command, which this machine runs or does not.
            return self._process.engine(order)
        return self._process.engine(order) or self._docker.engine(order)

    def check(self, order: DeployCommand) -> None:
        self._docker.check(order)

    async def open(self) -> None:
        await self._process.open()
        await self._docker.open()

    async def follow(self) -> None:
        await asyncio.gather(self._process.follow(), self._docker.follow())

    def conditions(self) -> list[ConditionReport]:
        return [*self._process.conditions(), *self._docker.conditions()]

    async def provide(self, plan: EnginePlan, tell: Tell) -> None:
        await self._for(plan).provide(plan, tell)

    async def start(self, folder: Path, plan: EnginePlan, room: Room = NO_LIMITS) -> Running:
        # What ran here before may have been of the other kind, and would be taken for what runs now.
        if plan.image is None:
            await self._docker.stop(folder, 0)
            self._docker.forget(folder)
        else:
            await self._process.stop(folder, 0)
        return await self._for(plan).start(folder, plan, room)

    def status(self, folder: Path) -> Running | Ended | None:
        return self._of(folder).status(folder)

    def outlives(self, folder: Path) -> bool:
        return self._of(folder).outlives(folder)

    async def ready(self, folder: Path, probes: tuple[str, ...]) -> bool:
        return await self._of(folder).ready(folder, probes)

    async def stop(self, folder: Path, grace: float) -> None:
        for each in (self._process, self._docker):
            await each.stop(folder, grace)

    async def output(self, folder: Path) -> str:
        return await self._of(folder).output(folder)

    async def logs(self, folder: Path, *, tail: int, offset: int | None) -> LogsResult:
        return await self._of(folder).logs(folder, tail=tail, offset=offset)

    def _for(self, plan: EnginePlan) -> Launcher:
        return self._process if plan.image is None else self._docker

    def _of(self, folder: Path) -> Launcher:
        return self._docker if self._docker.holds(folder) else self._process
