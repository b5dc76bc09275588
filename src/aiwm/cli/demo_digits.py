"""The demo on Triton: a real classifier of handwritten digits, judged by rows it has never seen."""

import time
from collections.abc import Sequence
from pathlib import Path

from aiwm.assets import MODEL, Digit, digits
from aiwm.cli.demo_subjects import Say
from aiwm.protocol.errors import BadUpstream, Conflict
from aiwm.protocol.resources.deployments import Deployment, served_name
from aiwm.protocol.resources.models import ModelCreate
from aiwm.protocol.states import EngineName, Framework, TaskType
from aiwm.sdk.client import Client
from aiwm.sdk.inference import InferResult, Tensor

ENOUGH_ROWS = 100
ENOUGH_RIGHT = 0.9
_BATCH = 100


class Digits:
    """Asked by its name over KServe v2, and once more over the engine's own path."""

    engine = EngineName.TRITON
    model = ModelCreate(name="digits", framework=Framework.TRITON, task_type=TaskType.CV)
    deployment = "digits-demo"
    missing = "this machine has no Triton; install it with: pip install 'aiwm[triton]'"
    start_seconds = 120.0

    async def files(self) -> Path:
        return MODEL

    async def ask(self, client: Client, deployment: Deployment, say: Say) -> None:
        rows = digits()
        if len(rows) < ENOUGH_ROWS:
            raise Conflict(f"cannot judge the model: only {len(rows)} rows are held out", code="DEMO_ROWS")
        began = time.monotonic()
        guesses: list[int] = []
        for start in range(0, len(rows), _BATCH):
            guesses += _labels(await client.inference.infer(deployment.name, [_pixels(rows[start:][:_BATCH])]))
        milliseconds = 1000 * (time.monotonic() - began)
        right = sum(guess == row.label for guess, row in zip(guesses, rows, strict=True))
        share = right / len(rows)
        verdict = f"{right} of {len(rows)} held-out digits right ({share:.1%}), in {milliseconds:.0f} ms"
        if share < ENOUGH_RIGHT:
            raise Conflict(f"cannot trust the model: only {verdict}", code="DEMO_ACCURACY")
        say(f"asked over /v2/models/{deployment.name}/infer: {verdict}")
        await _ask_engine(client, deployment, rows[0], guesses[0], say)


async def _ask_engine(client: Client, deployment: Deployment, row: Digit, expected: int, say: Say) -> None:
    path = f"v2/models/{served_name(deployment.name)}/infer"
    body = {"inputs": [_pixels([row]).model_dump()]}
    answer = await client.inference.raw(deployment.deployment_id, "POST", path, json=body)
    if answer.status != 200:
        raise BadUpstream(f"cannot ask the engine directly: it answered {answer.status}")
    (guess,) = _labels(InferResult.model_validate_json(answer.body))
    if guess != expected:
        raise BadUpstream(f"cannot trust the engine: asked directly it says {guess}, through the name {expected}")
    say(f"asked over {deployment.endpoint.partition('://')[2]}/{path}: {guess}, the same answer")


def _pixels(rows: Sequence[Digit]) -> Tensor:
    data: list[object] = [list(row.pixels) for row in rows]
    return Tensor(name="PIXELS", datatype="FP32", shape=[len(rows), 64], data=data)


def _labels(result: InferResult) -> list[int]:
    found = result.output("LABEL").data
    return [int(str(each)) for each in found]
