"""What the daemon needs to know of an engine: how to start it, how to tell that it serves, why it failed."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from aiwm.protocol.node_channel import DeployCommand, EngineNumbers


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports one engine listens on; only `http` is for others than this machine."""

    http: int
    grpc: int
    metrics: int


EVERYWHERE = "0.0.0.0"  # noqa: S104 - in a container, where what is published decides who gets in
"""Where an engine in a container listens."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens (`bind`), and under which host this machine reaches it (`local`)."""

    bind: str = "127.0.0.1"
    local: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Listen:
    """A port of this machine that leads to the engine: to its port `inside`, where that is another one in a container.

    `abroad` when others than this machine may dial it.
    """

    port: int
    inside: int | None = None
    abroad: bool = False


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """How to start one engine. All of `ready` must answer 200 before it serves; files matching `scratch` go with it.

    With an `image` it is a container's: `argv` replaces the image's own entrypoint where `entrypoint` says so, else it
    is what that is given. `metrics` is where its numbers are read in Prometheus's text format.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    ready: tuple[str, ...]
    scratch: tuple[str, ...] = ()
    image: str | None = None
    entrypoint: bool = False
    listens: tuple[Listen, ...] = ()
    metrics: str | None = None


class Verdict(StrEnum):
    """What came of a tiny real inference.

    It worked; the engine answered with an error: to what it must be able to do (failed), or to an input that was made
    up and may be none for this model (doubted); it did not answer (silent); or nothing can be tried.
    """

    WORKED = "worked"
    FAILED = "failed"
    DOUBTED = "doubted"
    SILENT = "silent"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class Trial:
    """`words` are the engine's, or why nothing was tried."""

    verdict: Verdict
    words: str = ""


class Engine(Protocol):
    """One kind of inference engine, as this machine or an image has it."""

    def version(self) -> str | None:
        """Its version on this machine, if it is known without starting it."""
        ...

    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        """Lays out what the engine reads below `workspace`; may block. `AiwmError` says why it cannot.

        Both folders have the same paths in a container, where they can only be read.
        """
        ...

    async def try_out(self, order: DeployCommand, base: str) -> Trial:
        """One tiny real inference at the engine's own URL `base`, without a limit of its own on how long that takes.

        Raises `TimeoutError` or `aiohttp.ClientError` when it does not answer.
        """
        ...

    def numbers(self, order: DeployCommand, page: str) -> EngineNumbers:
        """Its metrics page under the names common to all engines; what is not there is None."""
        ...

    def explain(self, log: str) -> str | None:
        """The engine's own reason for its end, as one sentence, from the last of its output."""
        ...

    def port_taken(self, log: str) -> bool:
        """Whether it ended because another program has one of its ports."""
        ...
