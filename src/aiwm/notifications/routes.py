"""REST of the inbox: `/notifications`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.http.audit import UNRECORDED
from aiwm.http.paging import Listing, ListingWith, page_of
from aiwm.infra.queue.port import JobOptions, Queues
from aiwm.kit.clock import Clock, iso
from aiwm.kit.context import correlation_id
from aiwm.kit.ids import new_id
from aiwm.notifications import rules
from aiwm.notifications.streams import Streams
from aiwm.protocol.notifications import (
    QUEUE,
    Announcement,
    AnnouncementAccepted,
    Notification,
    ReadAll,
    UnreadCount,
)
from aiwm.protocol.resources.base import Page

_inbox_listing = ListingWith("unread")


def notifications_router(streams: Streams, queues: Queues, guard: Guard, clock: Clock) -> APIRouter:
    """Everybody's own inbox; sending is for `universe.owner`."""
    router = APIRouter(prefix="/notifications", tags=["notifications"])
    reader = guard.needs("notifications.read")

    @router.get("")
    async def list_notifications(
        who: Annotated[Principal, reader],
        listing: Annotated[Listing, Depends(_inbox_listing)],
        unread: Annotated[bool | None, Query()] = None,
    ) -> Page[Notification]:
        """The caller's inbox, newest first."""
        records, total = await streams.page(who.id, listing, unread=unread)
        return page_of([rules.view(each) for each in records], listing, total)

    @router.get("/unread-count")
    async def unread_count(who: Annotated[Principal, reader]) -> UnreadCount:
        """How many the caller has not read."""
        return UnreadCount(count=await streams.unread(who.id))

    @router.patch("/{notification_id}/read", dependencies=[UNRECORDED])
    async def read(who: Annotated[Principal, reader], notification_id: str) -> Notification:
        """Marks one as read."""
        return rules.view((await streams.read(who.id, [notification_id]))[0])

    @router.post("/read-all", dependencies=[UNRECORDED])
    async def read_all(who: Annotated[Principal, reader]) -> ReadAll:
        """Marks all as read."""
        return ReadAll(count=await streams.read_all(who.id))

    @router.post("", status_code=202)
    async def send(
        who: Annotated[Principal, guard.needs("notifications.send")], body: Announcement
    ) -> AnnouncementAccepted:
        """Tells users, organizations or everyone something."""
        metadata = {"correlationId": correlation_id(), "userId": who.id, "timestamp": iso(clock.now())}
        if who.org_id:
            metadata["orgId"] = who.org_id
        job: dict[str, object] = {"event": "system.notification", "data": {**body.to_wire(), "metadata": metadata}}
        job_id = await queues.add(QUEUE, "system.notification", job, JobOptions(job_id=new_id("told")))
        return AnnouncementAccepted(notification_id=rules.notification_id(job_id, job))

    return router
