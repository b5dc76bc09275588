"""What the demo may deploy: a model, the engine that serves it, and how to see that it serves truly."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aiwm.protocol.resources.deployments import Deployment
from aiwm.protocol.resources.models import ModelCreate
from aiwm.protocol.states import EngineName
from aiwm.sdk.client import Client

Say = Callable[[str], None]


class Subject(Protocol):
    """`deployment` is its deployment's name; `missing` completes "cannot go on: " where no node has the engine."""

    engine: EngineName
    model: ModelCreate
    deployment: str
    missing: str
    start_seconds: float

    async def files(self) -> Path:
        """The folder of the model's files, made where that is needed. Raises `AiwmError`."""
        ...

    async def ask(self, client: Client, deployment: Deployment, say: Say) -> None:
        """Real inference, checked. Raises `AiwmError` when an answer is not as it must be."""
        ...
