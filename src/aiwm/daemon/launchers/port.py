"""The port behind which engines run: as processes, as containers, or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiwm.daemon.engines.base import Engine, EnginePlan
from aiwm.protocol.node_channel import LogsResult
from aiwm.protocol.states import EngineName


@dataclass(frozen=True, slots=True)
class Running:
    """An engine that runs: the same one as long as `pid` and `start_time` are the same."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class Ended:
    """An engine that ran. `requested` when it was told to end; `reason` reads after "the engine "."""

    reason: str
    requested: bool = False


class Launcher(Protocol):
    """Runs at most one engine per folder, and knows it again from that folder alone."""

    name: str
    engines: Mapping[EngineName, Engine]

    async def start(self, folder: Path, plan: EnginePlan) -> Running:
        """Starts `plan`; `AiwmError` with `CONTAINER_START_FAILED` when nothing could be started."""
        ...

    def status(self, folder: Path) -> Running | Ended | None:
        """What became of the engine started in `folder`; None when none ever was."""
        ...

    async def ready(self, folder: Path, probes: tuple[str, ...]) -> bool:
        """Whether the engine answers that it serves."""
        ...

    async def stop(self, folder: Path, grace: float) -> None:
        """Ends the engine, by force after `grace` seconds; nothing of it runs afterwards."""
        ...

    def output(self, folder: Path) -> str:
        """The last of what the engine wrote since it was started."""
        ...

    def logs(self, folder: Path, *, tail: int, offset: int | None) -> LogsResult:
        """The last `tail` lines, or what comes after `offset` bytes."""
        ...
