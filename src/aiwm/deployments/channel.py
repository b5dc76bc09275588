"""What nodes report about replicas, on its way into the state; and the regular question whether all is well."""

import logging

from aiwm.deployments import rules
from aiwm.deployments.book import Book
from aiwm.deployments.dirty import Dirty
from aiwm.deployments.last_logs import LastLogs
from aiwm.deployments.records import DeploymentState, Replica, Wish
from aiwm.kit.clock import Clock
from aiwm.kit.tasks import Tasks
from aiwm.nodes.commands import Commands
from aiwm.nodes.presence import Presence, Session
from aiwm.protocol import node_channel as wire
from aiwm.protocol.errors import AiwmError
from aiwm.protocol.states import ReplicaState

log = logging.getLogger(__name__)

HEALTH_CHECK_SECONDS = 60.0
_STARTED = frozenset(
    {
        ReplicaState.PREPARING,
        ReplicaState.STARTING,
        ReplicaState.RUNNING,
        ReplicaState.UNHEALTHY,
        ReplicaState.STOPPING,
        ReplicaState.LOST,
    }
)
_RESULT_SECONDS = 20.0


class Reports:
    """Hears what the node channel says of replicas (its `Listener`)."""

    def __init__(
        self,
        book: Book,
        dirty: Dirty,
        presence: Presence,
        commands: Commands,
        clock: Clock,
        tasks: Tasks,
        last: LastLogs,
    ) -> None:
        self._last = last
        self._book, self._dirty, self._presence = book, dirty, presence
        self._commands, self._clock, self._tasks = commands, clock, tasks

    async def inventory(self, session: Session) -> None:
        """A node has registered: what it runs, and what waits for a place, may have to be planned anew.

        One that did not say what it runs is taken to run what is on record: silence ends nothing.
        """
        if not session.registered:
            session.took(self._recorded(session.node_id))
        self._dirty.mark_each({each.deployment_id for each in session.inventory.values()})
        self._dirty.mark_each(self._book.concerned(session.node_id))
        self._tasks.spawn(f"health of {session.node_id}", self._ask(session))

    async def left(self, session: Session) -> None:
        """A node is gone; what it runs goes on, unseen."""
        log.info("replicas out of sight", extra={"nodeId": session.node_id, "replicas": len(session.inventory)})
        self._dirty.mark_each(self._book.concerned(session.node_id))

    def _recorded(self, node_id: str) -> list[wire.ReplicaReport]:
        return [
            rules.as_recorded(wish.id, replica)
            for wish in self._book
            for replica in self._book.state(wish.id).replicas
            if replica.node_id == node_id and replica.state in _STARTED
        ]

    def elsewhere(self, node_id: str | None, deployment_ids: set[str]) -> None:
        """Another controller opened or lost a node's session, or heard news of these deployments alone."""
        self._dirty.mark_each(deployment_ids)
        if node_id is not None:
            self._dirty.mark_each(self._book.concerned(node_id))

    async def status(self, session: Session, report: wire.DeploymentStatusReport) -> None:
        """News of one replica, from the node that runs it."""
        wish = self._book.wish(report.deployment_id)
        if wish is None:
            log.warning("news of an unknown deployment", extra={"deploymentId": report.deployment_id})
            if report.replica_id is not None:
                session.heard(rules.as_replica_report(report, _unknown(session.node_id, report)))
                self._dirty.mark(report.deployment_id)
            return
        replica = _replica_of(self._book.state(wish.id), session.node_id, report.replica_id)
        if replica is None:
            if report.replica_id is not None:
                session.heard(rules.as_replica_report(report, _unknown(session.node_id, report)))
            self._dirty.mark(wish.id)
            return
        news = rules.as_replica_report(report, replica)
        session.heard(news)
        await self._apply(wish, session.node_id, [news])

    async def progress(self, session: Session, report: wire.ModelProgress) -> None:
        """A replica that fetches its model says how far it is; only the latest word is kept."""
        wish = self._book.wish(report.deployment_id or "")
        if wish is None:
            return

        def fetching(state: DeploymentState) -> DeploymentState:
            replica = _replica_of(state, session.node_id, report.replica_id)
            if replica is None or replica.state is not ReplicaState.PREPARING:
                return state
            after = rules.with_replica(state, replica.model_copy(update={"message": rules.fetched(report)}))
            return rules.settled(state, after, wish, now=self._clock.now())

        await self._book.observe(wish.id, fetching)

    async def logs(self, session: Session, report: wire.DeploymentLogs) -> None:
        """The last lines of an engine that ended, from the node that ran it."""
        if not await self._last.keep(session.node_id, report):
            log.warning(
                "last lines of a replica that is not on this node",
                extra={"nodeId": session.node_id, "replicaId": report.replica_id},
            )

    async def _apply(self, wish: Wish, node_id: str, news: list[wire.ReplicaReport], *, checked: bool = False) -> None:
        now = self._clock.now()

        def heard(state: DeploymentState) -> DeploymentState:
            after = state
            for report in news:
                replica = _replica_of(after, node_id, report.replica_id)
                if replica is not None:
                    after = rules.with_replica(after, rules.absorbed(replica, report))
            if checked:
                after = after.model_copy(update={"last_health_check": now})
            return rules.settled(state, after, wish, now=now)

        await self._book.observe(wish.id, heard)
        self._dirty.mark(wish.id)

    async def ask_around(self) -> None:
        """Asks every node connected here for its health, once a minute, until cancelled."""
        while True:
            await self._clock.sleep(HEALTH_CHECK_SECONDS)
            for session in self._presence.here():
                self._tasks.spawn(f"health of {session.node_id}", self._ask(session))

    async def _ask(self, session: Session) -> None:
        try:
            answer = await self._commands.call(
                session.node_id, wire.COMMAND_HEALTH_CHECK, wire.HealthCheckCommand(), timeout=_RESULT_SECONDS
            )
            await self._checked(session, wire.HealthCheckResult.model_validate(answer))
        except (AiwmError, ValueError) as error:
            log.warning("no health answer kept", extra={"nodeId": session.node_id, "reason": str(error)})

    async def _checked(self, session: Session, health: wire.HealthCheckResult) -> None:
        by_deployment: dict[str, list[wire.ReplicaReport]] = {}
        for report in health.replicas:
            by_deployment.setdefault(report.deployment_id, []).append(report)
        for deployment_id, news in by_deployment.items():
            wish = self._book.wish(deployment_id)
            if wish is not None:
                await self._apply(wish, session.node_id, news, checked=True)


def _replica_of(state: DeploymentState, node_id: str, replica_id: str | None) -> Replica | None:
    """The replica a node speaks of; without an id, the only one it has of this deployment."""
    own = [each for each in state.replicas if each.node_id == node_id]
    if replica_id is not None:
        return next((each for each in own if each.replica_id == replica_id), None)
    active = [each for each in own if each.active]
    return active[0] if len(active) == 1 else None


def _unknown(node_id: str, report: wire.DeploymentStatusReport) -> Replica:
    return Replica(replica_id=report.replica_id or "", node_id=node_id, generation=report.generation or 0, revision=0)
