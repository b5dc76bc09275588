"""Consumes the `noti` queue: each job becomes one entry in the stream of every user it addresses, told live once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import islice

from aiwm.access.service import Users
from aiwm.infra.queue.port import Job
from aiwm.kit.clock import Clock
from aiwm.kit.context import correlated
from aiwm.notifications import rules
from aiwm.notifications.streams import Streams
from aiwm.protocol.notifications import Recipients

log = logging.getLogger(__name__)

_AT_ONCE = 50

Tell = Callable[[str, str, dict[str, object]], Awaitable[None]]


class Delivery:
    """`tell(user_id, event, payload)` reaches the user's open connections, if there are any."""

    def __init__(self, streams: Streams, users: Users, tell: Tell, clock: Clock) -> None:
        self._streams, self._users, self._tell, self._clock = streams, users, tell, clock

    async def handle(self, job: Job) -> None:
        """One job; delivered again, it tells only those it had not told. `Invalid` when it can never be read.

        Jobs must be handled one after the other, or streams would not keep the order of the queue.
        """
        told = rules.read(job.id, job.name, job.data, now=self._clock.now())
        with correlated(told.correlation_id):
            ways = iter((await self._addressed(told.data.recipients)).items())
            count = 0
            while some := list(islice(ways, _AT_ONCE)):
                outcomes = await asyncio.gather(*(self._to(told, *each) for each in some), return_exceptions=True)
                for failed in outcomes:
                    if isinstance(failed, BaseException):
                        raise failed
                count += len(some)
            fields = {"event": told.event, "notification": told.data.name, "notificationId": told.id, "users": count}
            log.info("notification told", extra=fields)

    async def _addressed(self, recipients: Recipients) -> dict[str, Recipients]:
        users = await self._users.existing(recipients.user_ids) if recipients.user_ids else []
        members = await self._users.members(recipients.org_ids) if recipients.org_ids else {}
        everyone = await self._users.everyone() if recipients.broadcast else []
        return rules.addressed(users=users, members=members, everyone=everyone)

    async def _to(self, told: rules.Told, user_id: str, way: Recipients) -> None:
        async with self._streams.lock(user_id):
            entry = await self._streams.append(told, user_id, way)
            if entry is not None:
                await self._tell(user_id, entry.event, rules.delivery(entry))
