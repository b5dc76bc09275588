"""Nodes: machines that dial out to the controller."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from aiwm.kit.clock import iso
from aiwm.protocol.resources.node_metrics import NodeMetrics
from aiwm.protocol.resources.nodes import Node, NodeToken, NodeTokenRequest
from aiwm.protocol.states import NodeStatus
from aiwm.sdk.nouns import Noun
from aiwm.sdk.transport import read_as


class Nodes(Noun[Node]):
    """`client.nodes`."""

    path, noun, kind = "/api/v1/nodes", "node", Node

    async def token(self, node_id: str, *, expires_in: int | None = None) -> NodeToken:
        """A token for the node's daemon, shown once. `expires_in` in seconds, 30 days when not given."""
        params = NodeTokenRequest() if expires_in is None else NodeTokenRequest(expires_in=expires_in)
        return read_as(NodeToken, await self._transport.request("POST", self.at(node_id, "token"), json=params))

    async def revoke(self, node_id: str) -> Node:
        """Ends the node's connection; no token made until now opens anything any more."""
        return read_as(Node, await self._transport.request("POST", self.at(node_id, "revoke")))

    async def cordon(self, node_id: str) -> Node:
        """Gives the node no more replicas; those it has go on."""
        return read_as(Node, await self._transport.request("POST", self.at(node_id, "cordon")))

    async def uncordon(self, node_id: str) -> Node:
        """Gives the node replicas again."""
        return read_as(Node, await self._transport.request("POST", self.at(node_id, "uncordon")))

    async def maintenance(self, node_id: str, wanted: bool) -> Node:
        """Says whether somebody works on the node; meanwhile it gets no more replicas."""
        return await self.patch(node_id, {"maintenance": wanted})

    async def label(self, node_id: str, changes: Mapping[str, str | None]) -> Node:
        """Sets labels, and removes those given as None; the others stay. `Stale` when another changed the node."""
        node = await self.get(node_id)
        merged = {**node.labels, **changes}
        labels = {key: value for key, value in merged.items() if value is not None}
        return await self.patch(node_id, {"labels": labels}, if_version=node.resource_version)

    async def metrics(
        self, node_id: str, *, begin: datetime | None = None, end: datetime | None = None, step: int | None = None
    ) -> NodeMetrics:
        """What the node measured, of the last hour when not said; `step` in seconds. Raises `Invalid`.

        The last hour is known at ten seconds, a week at one minute; a value is the mean of its step.
        """
        query = {"from": begin and iso(begin), "to": end and iso(end), "step": step and str(step)}
        given = {name: value for name, value in query.items() if value}
        return read_as(NodeMetrics, await self._transport.request("GET", self.at(node_id, "metrics"), params=given))

    async def wait_online(
        self,
        node_id: str,
        *,
        timeout: float = 60.0,
        on_change: Callable[[Node], Awaitable[None] | None] | None = None,
    ) -> Node:
        """Waits until the node is connected and registered. Raises `TimedOut`."""
        return await self._until(
            node_id,
            lambda node: node.status is NodeStatus.ONLINE,
            timeout=timeout,
            what="online",
            on_change=on_change,
        )
