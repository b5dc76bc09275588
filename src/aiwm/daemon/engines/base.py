"""What the daemon needs to know of an engine: how to start it, how to tell that it is ready, why it failed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiwm.protocol.node_channel import DeployCommand


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports one engine listens on; only `http` is for others than this machine."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens (`bind`), and under which host this machine reaches it (`local`)."""

    bind: str = "127.0.0.1"
    local: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """How to start one engine. All of `ready` must answer 200 before it serves; files matching `scratch` go with it."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    ready: tuple[str, ...]
    scratch: tuple[str, ...] = ()


class Engine(Protocol):
    """One kind of inference engine."""

    def version(self) -> str | None:
        """Its version on this machine, if it is known without starting it."""
        ...

    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        """Lays out what the engine reads below `workspace`; may block. `AiwmError` says why it cannot."""
        ...

    def explain(self, log: str) -> str | None:
        """The engine's own reason for its end, as one sentence, from the last of its output."""
        ...

    def port_taken(self, log: str) -> bool:
        """Whether it ended because another program has one of its ports."""
        ...
