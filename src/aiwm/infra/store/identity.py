"""The name of an installation: what stands on one store belongs together, whatever else it shares with others."""

import contextlib

from aiwm.infra.store.port import Store
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import Conflict, Unavailable

_COLLECTION = "installation"
_ID = "installation"


async def installation_name(store: Store) -> str:
    """Made by the first process that asks, and the same for ever."""
    found = await store.get(_COLLECTION, _ID)
    if found is None:
        with contextlib.suppress(Conflict):
            await store.insert(_COLLECTION, {"id": _ID, "name": new_id("installation")})
        found = await store.get(_COLLECTION, _ID)
    if found is None:
        raise Unavailable("cannot name this installation: its store forgot it")
    return str(found["name"])
