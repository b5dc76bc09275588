"""Watches who is there: calls nodes gone that did not come back in time, and says when the controller is isolated."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from aiwm.infra.store.outbox import TellingRecord
from aiwm.infra.store.port import Store
from aiwm.infra.store.records import Records
from aiwm.kit.clock import Clock, iso, seconds_between
from aiwm.kit.wake import Wake
from aiwm.nodes.isolation import Outlook, looked
from aiwm.nodes.presence import Presence
from aiwm.nodes.service import NodeService
from aiwm.protocol.errors import Conflict, Unavailable
from aiwm.protocol.notifications import QUEUE
from aiwm.protocol.states import NodeStatus

log = logging.getLogger(__name__)

VIGILS = "vigils"
EVERY_SECONDS = 2.0
JUDGE_AFTER = timedelta(seconds=75)
"""How long a node may be without a connection, its last one not having ended here, before it counts as gone: after the
start of a controller, nodes need the longest pause of their backoff and a handshake to be back."""

_ID = "fleet"
_MOST_NAMED = 100


class VigilRecord(TellingRecord):
    """What a controller that starts again must know: whether it was isolated, and from whom."""

    missing: list[str] = []
    population: int | None = None


class Vigil:
    """One a controller; the planner asks it at each look whether the controller is isolated.

    Of several controllers the one that `judges()` calls nodes gone, so that people are told once.
    """

    def __init__(
        self,
        store: Store,
        nodes: NodeService,
        presence: Presence,
        clock: Clock,
        relay: Wake,
        judges: Callable[[], bool],
    ) -> None:
        self._nodes, self._presence, self._clock, self._relay = nodes, presence, clock, relay
        self._judges = judges
        self._records = Records(store, VIGILS, VigilRecord)
        self._outlook = Outlook()
        self._kept = Outlook()
        self._away_since: dict[str, datetime] = {}

    async def prepare(self) -> None:
        """Takes up what was known before this controller started."""
        try:
            known = await self._records.insert(VigilRecord(id=_ID))
        except Conflict:
            known = await self._records.get(_ID) or VigilRecord(id=_ID)
        self._outlook = Outlook(missing=frozenset(known.missing), population=known.population)
        self._kept = self._outlook

    def isolated(self) -> bool:
        """Looks, and answers for this moment."""
        status = {record.id: seen.status for record, seen in self._nodes.fleet()}
        there = {node_id for node_id, each in status.items() if each is not NodeStatus.OFFLINE}
        self._outlook = looked(self._outlook, there, status.keys(), at=self._clock.now())
        return self._outlook.isolated

    async def run(self) -> None:
        """Watches for ever."""
        while True:
            await self.look()
            await self._clock.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Judges who is away, and tells when the isolation begins and ends."""
        await self._judge()
        isolated, before = self.isolated(), self._kept
        if self._outlook.missing == before.missing and isolated is before.isolated:
            return
        if isolated and not before.isolated:
            log.warning(
                "this controller is isolated: most nodes vanished at once; nothing is concluded from it",
                extra={"missing": len(self._outlook.missing), "of": self._outlook.population},
            )
        elif not isolated:
            log.warning("this controller sees most of its nodes again")
        try:
            self._kept = await self._keep(self._outlook)
        except Unavailable as error:
            log.warning("the news of the isolation waits: %s", error.message)

    async def _judge(self) -> None:
        now, fleet = self._clock.now(), self._nodes.fleet() if self._judges() else ()
        away = {
            record.id: record
            for record, seen in fleet
            if seen.status is not NodeStatus.OFFLINE and self._presence.of(record.id) is None
        }
        self._away_since = {node_id: self._away_since.get(node_id, now) for node_id in away}
        for node_id, since in list(self._away_since.items()):
            if now - since >= JUDGE_AFTER:
                log.warning("a node did not return", extra={"nodeId": node_id, "seconds": seconds_between(since, now)})
                await self._nodes.missing(away[node_id])

    async def _keep(self, outlook: Outlook) -> Outlook:
        now = self._clock.now()
        orgs = {record.owner.org_id for record, _ in self._nodes.fleet() if record.owner.org_id}
        job = _alert(outlook, {"orgIds": sorted(orgs)}, now)

        def kept(record: VigilRecord) -> VigilRecord:
            known = {"missing": sorted(outlook.missing), "population": outlook.population}
            changed = record.model_copy(update=known)
            if (record.population is not None) is outlook.isolated:
                # It was told already, maybe by another controller.
                return record if changed == record else changed
            return changed.telling(QUEUE, "service.alert", job, at=now)

        await self._records.update(_ID, kept)
        self._relay.set()
        return outlook


def _alert(outlook: Outlook, recipients: dict[str, object], now: datetime) -> dict[str, object]:
    if outlook.isolated:
        name, title, severity = "controller.isolated", "The controller is isolated", "critical"
        message = (
            f"{len(outlook.missing)} of {outlook.population} nodes vanished within a minute. What they run goes on, "
            "and nothing is moved until most of them are back. Look at the controller's own network first."
        )
    else:
        name, title, severity = "controller.reconnected", "The controller sees its nodes again", "normal"
        message = "Most of the nodes that had vanished are back, or were removed."
    data = {
        "name": name,
        "title": title,
        "message": message,
        "severity": severity,
        "data": {"missing": sorted(outlook.missing)[:_MOST_NAMED]},
        "metadata": {"timestamp": iso(now)},
        "recipients": recipients,
    }
    return {"event": "service.alert", "data": data}
