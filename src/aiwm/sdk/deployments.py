"""Deployments: the wish that a model serves, and what became of it."""

import codecs
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp

from aiwm.protocol.errors import Conflict, NotFound, TimedOut
from aiwm.protocol.resources.deployments import (
    Deployment,
    DeploymentEvent,
    DeploymentPlan,
    ReplicaDetail,
    ScaleRequest,
    StopRequest,
)
from aiwm.protocol.states import DeploymentStatus
from aiwm.sdk.nouns import Noun, items_as
from aiwm.sdk.transport import Body, read_as

OnChange = Callable[[Deployment], Awaitable[None] | None]


class Deployments(Noun[Deployment]):
    """`client.deployments`."""

    path, noun, kind = "/api/v1/deployments", "deployment", Deployment

    async def start(self, deployment_id: str) -> Deployment:
        """Wants it running; nothing changes when it is."""
        return await self._act(deployment_id, "start")

    async def stop(self, deployment_id: str, *, force: bool = False, timeout_seconds: int = 30) -> Deployment:
        """Wants it stopped: engines get `timeout_seconds` to end, none with `force`."""
        params = StopRequest(force=force, timeout_seconds=timeout_seconds)
        return await self._act(deployment_id, "stop", params)

    async def restart(self, deployment_id: str) -> Deployment:
        """Replaces its engines by new ones."""
        return await self._act(deployment_id, "restart")

    async def scale(self, deployment_id: str, replicas: int) -> Deployment:
        """Wants that many replicas."""
        return await self._act(deployment_id, "scale", ScaleRequest(replicas=replicas))

    async def plan(self, params: Body) -> DeploymentPlan:
        """What creating it would do, and why; nothing is created."""
        return read_as(DeploymentPlan, await self._transport.request("POST", f"{self.path}/plan", json=params))

    async def replicas(self, deployment_id: str) -> list[ReplicaDetail]:
        """Its engines, one entry each."""
        return items_as(ReplicaDetail, await self._transport.request("GET", self.at(deployment_id, "replicas")))

    async def events(self, deployment_id: str) -> list[DeploymentEvent]:
        """Its whole story, oldest first."""
        return items_as(DeploymentEvent, await self._transport.request("GET", self.at(deployment_id, "events")))

    async def logs(self, deployment_id: str, *, follow: bool = False, tail: int = 100) -> AsyncIterator[str]:
        """Pieces of the engine's log as they come: the last `tail` lines, and with `follow` what is added."""
        query = {"tail": str(tail), "follow": "true" if follow else "false"}
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
        async with self._transport.answer(
            "GET", self.at(deployment_id, "logs"), params=query, headers={"Accept": "text/plain"}, timeout=timeout
        ) as answer:
            async for chunk in answer.content.iter_any():
                if text := decoder.decode(chunk):
                    yield text
        if text := decoder.decode(b"", final=True):
            yield text

    async def wait(
        self,
        deployment_id: str,
        status: DeploymentStatus | str = DeploymentStatus.RUNNING,
        *,
        timeout: float = 600.0,
        on_change: OnChange | None = None,
    ) -> Deployment:
        """Waits until the last change has come about and it has `status`, with every replica.

        Raises `Conflict` with the reason when it failed instead, `TimedOut`.
        """
        wanted = DeploymentStatus(status)
        ended = {wanted, DeploymentStatus.FAILED}
        deployment = await self._until(
            deployment_id,
            # Until the observed generation follows, the status still speaks of what was wanted before.
            lambda each: each.status in ended and each.observed_generation >= each.generation,
            timeout=timeout,
            what=wanted.value,
            on_change=on_change,
        )
        if deployment.status is not wanted:
            reason = deployment.status_reason or "it failed"
            raise Conflict(f"cannot run deployment {deployment.name}: {reason}", code="DEPLOYMENT_FAILED")
        return deployment

    async def wait_gone(self, deployment_id: str, *, timeout: float = 120.0) -> None:
        """Waits until a deleted deployment has stopped and is gone. Raises `TimedOut`."""
        try:
            await self._until(deployment_id, lambda _: False, timeout=timeout, what="gone", on_change=None)
        except NotFound:
            return
        raise TimedOut(f"cannot wait longer for deployment {deployment_id}: it is still there")

    async def _act(self, deployment_id: str, verb: str, params: Body = None) -> Deployment:
        return read_as(Deployment, await self._transport.request("POST", self.at(deployment_id, verb), json=params))
