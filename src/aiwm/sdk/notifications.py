"""The caller's inbox, at NOTI."""

from aiwm.protocol.notifications import Notification, UnreadCount
from aiwm.protocol.resources.base import Page
from aiwm.sdk.nouns import listing, page_as
from aiwm.sdk.transport import Transport, read_as

_PATH = "/api/v1/notifications"


class Notifications:
    """`client.notifications`."""

    path = _PATH

    def __init__(self, transport: Transport, noti_url: str) -> None:
        self._transport, self._noti_url = transport, noti_url

    async def list(self, *, page: int = 1, limit: int = 20, unread: bool = False) -> Page[Notification]:
        """One page, newest first; only what is not read yet with `unread`."""
        query = listing(page, limit, None, None, None) | ({"unread": "true"} if unread else {})
        return page_as(Notification, await self._ask("GET", _PATH, query))

    async def unread_count(self) -> int:
        """How many are not read."""
        return read_as(UnreadCount, await self._ask("GET", f"{_PATH}/unread-count")).count

    async def read(self, notification_id: str) -> None:
        """Marks one as read."""
        await self._ask("PATCH", f"{_PATH}/{notification_id}/read")

    async def read_all(self) -> None:
        """Marks all as read."""
        await self._ask("POST", f"{_PATH}/read-all")

    async def _ask(self, method: str, path: str, params: dict[str, str] | None = None) -> object:
        return await self._transport.request(method, path, params=params, base=self._noti_url)
