"""API keys at the notifications' door."""

from typing import Any

import pytest
import socketio
from tests.http_support import served, site, until

from aiwm.apps.noti import compose
from aiwm.infra.queue.memory import MemoryQueues
from aiwm.protocol.notifications import NAMESPACE
from aiwm.protocol.resources.api_keys import ApiKeyCreate
from aiwm.protocol.states import Role


async def test_a_key_opens_notifications_by_its_scope_until_it_is_revoked() -> None:
    async with site() as here:
        _, token = await here.user("ann", Role.ORGANIZATION_VIEWER, org_id="org-1")
        who, keys = await here.guard.principal(token), here.access.api_keys
        wide = await keys.create(who, ApiKeyCreate(name="wide", scopes=["manage"]))
        narrow = await keys.create(who, ApiKeyCreate(name="narrow", scopes=["inference"]))
        noti = compose(here.settings, here.store, MemoryQueues(), here.tokens, here.clock)
        await noti.prepare()
        refused, connected = _client(), _client()
        try:
            async with served(noti.application()) as url:
                with pytest.raises(socketio.exceptions.ConnectionError):
                    await _connect(refused, url, narrow.key)
                await _connect(connected, url, wide.key)
                assert connected.connected
                record = await keys.record(wide.api_key_id)
                assert record is not None
                await keys.revoke(record, by=who.id)
                await noti.hub.look()
                await until(lambda: not connected.connected, "the connection of the revoked key ends")
        finally:
            for each in (refused, connected):
                await each.shutdown()
            noti.access.passwords.close()


def _client() -> Any:
    return socketio.AsyncClient(reconnection=False)


async def _connect(client: Any, url: str, key: str) -> None:
    await client.connect(url, auth={"token": key}, namespaces=[NAMESPACE], transports=["websocket"])
