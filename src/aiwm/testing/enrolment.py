"""The simulated nodes as the controller knows them: registered or found again, given tokens, and removed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from aiwm.protocol.errors import Conflict, NotFound, TooMany
from aiwm.protocol.resources.nodes import Node, NodeCreate
from aiwm.sdk.client import Client

LABEL, MARK = "simulated", "true"
_PREFIX = "sim-"
_AT_ONCE = 8
_TOKEN_SECONDS = 86_400
_PAUSE_SECONDS = 0.5

T = TypeVar("T")


def names(count: int) -> list[str]:
    """`sim-0001` and so on."""
    return [f"{_PREFIX}{number:04d}" for number in range(1, count + 1)]


async def known(client: Client) -> dict[str, Node]:
    """The nodes that a simulator registered and did not remove, by name."""
    found = [node async for node in client.nodes.all(q=_PREFIX)]
    return {node.name: node for node in found if node.labels.get(LABEL) == MARK}


async def enrol(client: Client, count: int) -> AsyncIterator[tuple[str, str, str]]:
    """Name, id and a token that is good for a day, of each of `count` nodes, as they are made or found.

    Raises `Conflict` when somebody else's node has such a name.
    """
    there = await known(client)

    async def one(name: str) -> tuple[str, str, str]:
        node_id = there[name].node_id if name in there else await _registered(client, name)
        made = await _patiently(lambda: client.nodes.token(node_id, expires_in=_TOKEN_SECONDS))
        return name, node_id, made.token

    wanted = names(count)
    for start in range(0, len(wanted), _AT_ONCE):
        for each in await asyncio.gather(*(one(name) for name in wanted[start : start + _AT_ONCE])):
            yield each


async def remove(client: Client, node_ids: Sequence[str]) -> list[str]:
    """Deletes nodes; the ids of those that replicas are still on, which the controller keeps."""

    async def one(node_id: str) -> str | None:
        try:
            await _patiently(lambda: client.nodes.delete(node_id))
        except NotFound:
            return None
        except Conflict as error:
            if error.code != "NODE_IN_USE":
                raise
            return node_id
        return None

    kept: list[str | None] = []
    for start in range(0, len(node_ids), _AT_ONCE):
        kept += await asyncio.gather(*(one(node_id) for node_id in node_ids[start : start + _AT_ONCE]))
    return [node_id for node_id in kept if node_id is not None]


async def _registered(client: Client, name: str) -> str:
    try:
        node = await _patiently(lambda: client.nodes.create(NodeCreate(name=name, labels={LABEL: MARK})))
    except Conflict as error:
        raise Conflict(
            f"cannot simulate {name}: a node without the label {LABEL}={MARK} has that name; rename or delete it",
            code=error.code,
        ) from error
    return node.node_id


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks again for as long as the controller says that it was asked too much."""
    while True:
        try:
            return await ask()
        except TooMany:
            await asyncio.sleep(_PAUSE_SECONDS)
