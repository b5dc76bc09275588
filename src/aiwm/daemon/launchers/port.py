"""The port behind which engines run: as processes, as containers, or not at all."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from aiwm.daemon.engines.base import Engine, EnginePlan
from aiwm.protocol.errors import AiwmError
from aiwm.protocol.node_channel import DeployCommand, LogsResult
from aiwm.protocol.resources.nodes import ConditionReport
from aiwm.protocol.states import EngineName

Tell = Callable[[str], Awaitable[None]]


class PortTaken(AiwmError):
    """Another program took one of the plan's ports after they had been chosen."""


@dataclass(frozen=True, slots=True)
class Running:
    """An engine that runs: the same one as long as `pid` and `start_time` are the same.

    `note` is what people should know of it besides, like that somebody paused it.
    """

    pid: int
    start_time: int
    note: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """An engine that ran. `requested` when it was told to end; `reason` reads after "the engine ".

    `explained` when that is all there is to say: its output holds nothing that would explain it better.
    """

    reason: str
    requested: bool = False
    explained: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """What one replica is given of the machine. Memory in MiB, processors in cores; None is without a limit.

    `gpus` are the devices it sees, and no others, by the names CUDA knows them under; `folders` it may read.
    """

    name: str = ""
    gpus: tuple[str, ...] = ()
    ram: int | None = None
    cpu_cores: float | None = None
    folders: tuple[Path, ...] = ()


NO_LIMITS = Room()


class Launcher(Protocol):
    """Runs at most one engine per folder, and knows it again from that folder alone."""

    @property
    def names(self) -> Sequence[str]:
        """In which ways it runs engines: `process`, `docker`."""
        ...

    @property
    def engines(self) -> Mapping[EngineName, Engine]:
        """What it can run now."""
        ...

    def engine(self, order: DeployCommand) -> Engine | None:
        """The engine that runs this order; None when this machine has none for it.

        Raises `Denied` for an image that it does not run.
        """
        ...

    def check(self, order: DeployCommand) -> None:
        """Raises `AiwmError` for an order that the operator lets nobody give to this machine."""
        ...

    async def open(self) -> None:
        """Learns what runs already, as far as that can be learned now; before anything else."""
        ...

    async def follow(self) -> None:
        """Keeps what `status` says true, until cancelled or when nothing is to be done for that."""
        ...

    def conditions(self) -> list[ConditionReport]:
        """What people should know of what engines run on."""
        ...

    async def provide(self, plan: EnginePlan, tell: Tell) -> None:
        """Fetches what a start needs and this machine lacks, and tells how far that is. Raises `AiwmError`."""
        ...

    async def start(self, folder: Path, plan: EnginePlan, room: Room = NO_LIMITS) -> Running:
        """Starts `plan`; `AiwmError` when nothing could be started, `PortTaken` when other ports may help."""
        ...

    def status(self, folder: Path) -> Running | Ended | None:
        """What became of the engine started in `folder`; None when none ever was."""
        ...

    def outlives(self, folder: Path) -> bool:
        """Whether the engine in `folder` goes on when everything that the daemon belongs to has ended."""
        ...

    async def ready(self, folder: Path, probes: tuple[str, ...]) -> bool:
        """Whether the engine answers that it serves."""
        ...

    async def stop(self, folder: Path, grace: float) -> None:
        """Ends the engine, by force after `grace` seconds; nothing of it runs afterwards.

        Raises `Unavailable` when that cannot be made sure of now.
        """
        ...

    async def output(self, folder: Path) -> str:
        """The last of what the engine wrote since it was started."""
        ...

    async def logs(self, folder: Path, *, tail: int, offset: int | None) -> LogsResult:
        """The last `tail` lines, or what comes after `offset`, which is an earlier answer's `next_offset`."""
        ...
