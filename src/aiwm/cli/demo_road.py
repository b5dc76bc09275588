"""The demo's road, step by step, each checked: join, register, deploy, ask, watch, stop. Only the SDK is used."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiwm.assets import MODEL, Digit, digits
from aiwm.cli.demo_events import Witness
from aiwm.kit.context import correlated
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import AiwmError, BadUpstream, Conflict, Unavailable
from aiwm.protocol.notifications import Delivery
from aiwm.protocol.resources.deployments import Deployment, DeploymentCreate, served_name
from aiwm.protocol.resources.models import Model, ModelCreate
from aiwm.protocol.resources.nodes import Node, NodeCreate
from aiwm.protocol.states import DeploymentStatus, EngineName, Framework, TaskType
from aiwm.sdk.client import Client
from aiwm.sdk.inference import InferResult, Tensor

NODE, MODEL_NAME, DEPLOYMENT = "demo-node", "digits", "digits-demo"
ENOUGH_ROWS = 100
ENOUGH_RIGHT = 0.9
_BATCH = 100
_START_SECONDS = 120.0

Say = Callable[[str], None]
Join = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Road:
    """One walk: `join(token)` starts a node daemon on this machine, `say` tells what happened."""

    client: Client
    witness: Witness
    join: Join
    say: Say

    async def walk(self) -> None:
        """The whole road. Raises `AiwmError` where it ends early."""
        await self._node()
        model = await self._model()
        deployment = await self._deploy(model)
        await self._ask(deployment)
        await self._story(deployment)
        await self._stop(deployment)
        await self._tidy(deployment, model)

    async def _node(self) -> None:
        made = await self.client.nodes.create(NodeCreate(name=NODE))
        token = await self.client.nodes.token(made.node_id, expires_in=3600)
        self.say(f"node {NODE} created, its token issued; its daemon dials out")
        await self.join(token.token)
        node = await self.client.nodes.wait_online(made.node_id)
        self.say(f"node {NODE} registered: {_hardware(node)}")
        if not any(engine.name == EngineName.TRITON for engine in node.engines):
            raise Unavailable(
                "cannot go on: this machine has no Triton; install it with: pip install 'aiwm[triton]'",
                code="ENGINE_MISSING",
            )
        await self.witness.expect("node.online", nodeId=node.node_id)

    async def _model(self) -> Model:
        params = ModelCreate(name=MODEL_NAME, framework=Framework.TRITON, task_type=TaskType.CV)
        made = await self.client.models.create(params)
        await self.client.models.upload(made.model_id, MODEL)
        model = await self.client.models.wait_ready(made.model_id)
        self.say(f"model {MODEL_NAME} uploaded: {len(model.files)} files, {model.size} bytes, every hash verified")
        await self.witness.expect("model.upload.completed", modelId=model.model_id)
        return model

    async def _deploy(self, model: Model) -> Deployment:
        correlation = new_id("corr")
        with correlated(correlation):
            made = await self.client.deployments.create(DeploymentCreate(name=DEPLOYMENT, model_id=model.model_id))
        self.say(f"deployment {DEPLOYMENT} accepted, correlation id {correlation}")
        began = time.monotonic()
        deployment = await self.client.deployments.wait(made.deployment_id, timeout=_START_SECONDS)
        self.say(f"deployment {DEPLOYMENT} runs on {deployment.container_name}, {time.monotonic() - began:.1f} s later")
        started = await self.witness.expect("model.deployment.started", deploymentId=made.deployment_id)
        check_started(started, made.deployment_id, model.name, correlation)
        await self.witness.expect("model.deployment.running", deploymentId=made.deployment_id)
        return deployment

    async def _ask(self, deployment: Deployment) -> None:
        rows = digits()
        if len(rows) < ENOUGH_ROWS:
            raise Conflict(f"cannot judge the model: only {len(rows)} rows are held out", code="DEMO_ROWS")
        began = time.monotonic()
        guesses = [guess for start in range(0, len(rows), _BATCH) for guess in await self._guess(rows[start:][:_BATCH])]
        milliseconds = 1000 * (time.monotonic() - began)
        right = sum(guess == row.label for guess, row in zip(guesses, rows, strict=True))
        share = right / len(rows)
        verdict = f"{right} of {len(rows)} held-out digits right ({share:.1%}), in {milliseconds:.0f} ms"
        if share < ENOUGH_RIGHT:
            raise Conflict(f"cannot trust the model: only {verdict}", code="DEMO_ACCURACY")
        self.say(f"asked over /v2/models/{DEPLOYMENT}/infer: {verdict}")
        await self._ask_raw(deployment, rows[0], guesses[0])

    async def _guess(self, rows: Sequence[Digit]) -> list[int]:
        result = await self.client.inference.infer(DEPLOYMENT, [_pixels(rows)])
        return _labels(result)

    async def _ask_raw(self, deployment: Deployment, row: Digit, expected: int) -> None:
        path = f"v2/models/{served_name(DEPLOYMENT)}/infer"
        body = {"inputs": [_pixels([row]).model_dump()]}
        answer = await self.client.inference.raw(deployment.deployment_id, "POST", path, json=body)
        if answer.status != 200:
            raise BadUpstream(f"cannot ask the engine directly: it answered {answer.status}")
        (guess,) = _labels(InferResult.model_validate_json(answer.body))
        if guess != expected:
            raise BadUpstream(f"cannot trust the engine: asked directly it says {guess}, through the name {expected}")
        self.say(f"asked over {deployment.endpoint.partition('://')[2]}/{path}: {guess}, the same answer")

    async def _story(self, deployment: Deployment) -> None:
        self.say("what its events tell:")
        for event in await self.client.deployments.events(deployment.deployment_id):
            self.say(f"    {event.timestamp:%H:%M:%S.%f}"[:-3] + f"  {event.message}")

    async def _stop(self, deployment: Deployment) -> None:
        await self.client.deployments.stop(deployment.deployment_id)
        await self.client.deployments.wait(deployment.deployment_id, DeploymentStatus.STOPPED, timeout=60.0)
        self.say(f"deployment {DEPLOYMENT} stopped")
        await self.witness.expect("model.deployment.stopped", deploymentId=deployment.deployment_id)

    async def _tidy(self, deployment: Deployment, model: Model) -> None:
        await self.client.deployments.delete(deployment.deployment_id)
        await self.client.deployments.wait_gone(deployment.deployment_id)
        await self.client.models.delete(model.model_id)
        self.say("deployment and model deleted")


async def reported(client: Client, error: AiwmError) -> str:
    """What the deployment itself says about a failure, when there is one to ask."""
    try:
        async with asyncio.timeout(5.0):
            page = await client.deployments.list(filters={"name": DEPLOYMENT})
            lines = [f"{each.status.value}: {each.status_reason}" for each in page.data if each.status_reason]
    except (AiwmError, TimeoutError):
        return ""
    return next((line for line in lines if line.partition(": ")[2] not in error.message), "")


def check_started(event: Delivery, deployment_id: str, model_name: str, correlation: str) -> None:
    """`model.deployment.started` says exactly what the source's example says, under the id that was sent."""
    wanted = {"deploymentId": deployment_id, "modelName": model_name, "status": "deploying"}
    if event.data != wanted:
        raise Conflict(
            f"cannot accept model.deployment.started: its data is {event.data}, not {wanted}", code="EVENT_WRONG"
        )
    if event.notification_metadata.correlation_id != correlation:
        raise Conflict(
            f"cannot accept model.deployment.started: its correlation id is "
            f"{event.notification_metadata.correlation_id}, not the {correlation} that was sent",
            code="EVENT_WRONG",
        )


def _pixels(rows: Sequence[Digit]) -> Tensor:
    data: list[object] = [list(row.pixels) for row in rows]
    return Tensor(name="PIXELS", datatype="FP32", shape=[len(rows), 64], data=data)


def _labels(result: InferResult) -> list[int]:
    found = result.output("LABEL").data
    return [int(str(each)) for each in found]


def _hardware(node: Node) -> str:
    engines = ", ".join(f"{each.name} {each.version or ''}".strip() for each in node.engines) or "no engine"
    return f"{node.cpu_cores} cores, {node.ram_total} MiB RAM, {len(node.gpu_devices)} GPUs, {engines}"
