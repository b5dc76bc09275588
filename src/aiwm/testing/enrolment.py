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
    return {name: node for name, node in (await _named_so(client)).items() if _is_simulated(node)}


async def enrol(client: Client, count: int) -> AsyncIterator[tuple[str, str]]:
    """Name and a token that is good for a day, of each of `count` nodes, as they are made or found.

    Raises `Conflict` when somebody else's node has such a name.
    """
    there, wanted = await _named_so(client), names(count)
    for name in wanted:
        if name in there and not _is_simulated(there[name]):
            raise _not_ours(name)

    async def one(name: str) -> tuple[str, str]:
        node_id = there[name].node_id if name in there else await _registered(client, name)
        made = await _patiently(lambda: client.nodes.token(node_id, expires_in=_TOKEN_SECONDS))
        return name, made.token

    for start in range(0, len(wanted), _AT_ONCE):
        for each in await asyncio.gather(*(one(name) for name in wanted[start : start + _AT_ONCE])):
            yield each


async def remove(client: Client, only: Sequence[str] | None = None) -> list[str]:
    """Deletes simulated nodes, all or `only` some; the ids of those with replicas, which the controller keeps."""
    there = await known(client)
    node_ids = [there[name].node_id for name in (there if only is None else there.keys() & set(only))]

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
        raise _not_ours(name) from error
    return node.node_id


async def _named_so(client: Client) -> dict[str, Node]:
    return {node.name: node async for node in client.nodes.all(q=_PREFIX)}


def _is_simulated(node: Node) -> bool:
    return node.labels.get(LABEL) == MARK


def _not_ours(name: str) -> Conflict:
    return Conflict(
        f"cannot simulate {name}: a node without the label {LABEL}={MARK} has that name; rename or delete it",
        code="NAME_TAKEN",
    )


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks again for as long as the controller says that it was asked too much."""
    while True:
        try:
            return await ask()
        except TooMany:
            await asyncio.sleep(_PAUSE_SECONDS)
