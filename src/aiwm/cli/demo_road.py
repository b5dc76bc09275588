"""The demo's road, step by step, each checked: join, register, deploy, ask, watch, stop. Only the SDK is used."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiwm.cli.demo_events import Witness
from aiwm.cli.demo_subjects import Say, Subject
from aiwm.kit.context import correlated
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import AiwmError, Conflict, Unavailable
from aiwm.protocol.notifications import Delivery
from aiwm.protocol.resources.deployments import Deployment, DeploymentCreate
from aiwm.protocol.resources.models import Model
from aiwm.protocol.resources.nodes import Node, NodeCreate
from aiwm.protocol.states import DeploymentStatus
from aiwm.sdk.client import Client

NODE = "demo-node"

Join = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Road:
    """One walk with one model: `join(token)` starts a node daemon on this machine, `say` tells what happened."""

    subject: Subject
    client: Client
    witness: Witness
    join: Join
    say: Say

    async def walk(self) -> None:
        """The whole road. Raises `AiwmError` where it ends early."""
        await self._node()
        model = await self._model()
        deployment = await self._deploy(model)
        await self.subject.ask(self.client, deployment, self.say)
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
        if not any(engine.name == self.subject.engine for engine in node.engines):
            raise Unavailable(f"cannot go on: {self.subject.missing}", code="ENGINE_MISSING")
        await self.witness.expect("node.online", nodeId=node.node_id)

    async def _model(self) -> Model:
        made = await self.client.models.create(self.subject.model)
        await self.client.models.upload(made.model_id, await self.subject.files())
        model = await self.client.models.wait_ready(made.model_id)
        self.say(f"model {model.name} uploaded: {len(model.files)} files, {model.size} bytes, every hash verified")
        await self.witness.expect("model.upload.completed", modelId=model.model_id)
        return model

    async def _deploy(self, model: Model) -> Deployment:
        correlation = new_id("corr")
        with correlated(correlation):
            wish = DeploymentCreate(name=self.subject.deployment, model_id=model.model_id)
            made = await self.client.deployments.create(wish)
        self.say(f"deployment {made.name} accepted, correlation id {correlation}")
        began = time.monotonic()
        deployment = await self.client.deployments.wait(made.deployment_id, timeout=self.subject.start_seconds)
        self.say(f"deployment {made.name} runs on {deployment.container_name}, {time.monotonic() - began:.1f} s later")
        started = await self.witness.expect("model.deployment.started", deploymentId=made.deployment_id)
        check_started(started, made.deployment_id, model.name, correlation)
        await self.witness.expect("model.deployment.running", deploymentId=made.deployment_id)
        return deployment

    async def _story(self, deployment: Deployment) -> None:
        self.say("what its events tell:")
        for event in await self.client.deployments.events(deployment.deployment_id):
            self.say(f"    {event.timestamp:%H:%M:%S.%f}"[:-3] + f"  {event.message}")

    async def _stop(self, deployment: Deployment) -> None:
        await self.client.deployments.stop(deployment.deployment_id)
        await self.client.deployments.wait(deployment.deployment_id, DeploymentStatus.STOPPED, timeout=60.0)
        self.say(f"deployment {deployment.name} stopped")
        await self.witness.expect("model.deployment.stopped", deploymentId=deployment.deployment_id)

    async def _tidy(self, deployment: Deployment, model: Model) -> None:
        await self.client.deployments.delete(deployment.deployment_id)
        await self.client.deployments.wait_gone(deployment.deployment_id)
        await self.client.models.delete(model.model_id)
        self.say("deployment and model deleted")


async def reported(client: Client, deployment: str, error: AiwmError) -> str:
    """What the deployment of that name itself says about a failure, when there is one to ask."""
    try:
        async with asyncio.timeout(5.0):
            page = await client.deployments.list(filters={"name": deployment})
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


def _hardware(node: Node) -> str:
    engines = ", ".join(f"{each.name} {each.version or ''}".strip() for each in node.engines) or "no engine"
    return f"{node.cpu_cores} cores, {node.ram_total} MiB RAM, {len(node.gpu_devices)} GPUs, {engines}"
