"""The loop that closes the gap between wish and state: woken without data, it looks, plans, records and sends.

The state is written before a command goes out, so a controller that dies in between finds in the store what it was
about to do, and does it again: commands are idempotent.
"""

import logging
from collections.abc import Coroutine
from dataclasses import dataclass

from aiwm.deployments import rules
from aiwm.deployments.book import Book
from aiwm.deployments.dirty import Dirty
from aiwm.deployments.node_facts import FactsOfNodes
from aiwm.deployments.placement import Fleet
from aiwm.deployments.planner import Command, Deploy, ModelFacts, Stop, plan, strays, wanted
from aiwm.deployments.records import DeploymentState, Replica, Wish
from aiwm.deployments.service import DeploymentService
from aiwm.kit.clock import Clock
from aiwm.kit.context import correlated
from aiwm.kit.ids import new_id
from aiwm.kit.tasks import Tasks
from aiwm.models.artifacts import Artifacts
from aiwm.models.service import ModelService
from aiwm.nodes.commands import CommandFailed, Commands
from aiwm.nodes.presence import Presence
from aiwm.nodes.service import NodeService
from aiwm.nodes.vigil import Vigil
from aiwm.protocol import node_channel as wire
from aiwm.protocol.errors import AiwmError, NotFound, Stale
from aiwm.protocol.states import DownloadStatus, ReplicaState

log = logging.getLogger(__name__)

RESYNC_SECONDS = 30.0
_RETRY_SECONDS = 5.0
_MODEL_SECONDS = 1.0
_DEPLOY_SECONDS = 24 * 3600.0
_STOP_MARGIN_SECONDS = 30.0
_GONE = frozenset({"DEPLOYMENT_NOT_RUNNING", "DEPLOYMENT_NOT_FOUND"})


@dataclass(frozen=True, slots=True)
class Parts:
    """What the reconciler works with."""

    book: Book
    deployments: DeploymentService
    models: ModelService
    artifacts: Artifacts
    nodes: NodeService
    presence: Presence
    vigil: Vigil
    commands: Commands
    clock: Clock


class Reconciler:
    """One a controller; `run` is its loop, woken by what is marked dirty."""

    def __init__(self, parts: Parts, dirty: Dirty, tasks: Tasks) -> None:
        self._parts, self._dirty, self._tasks = parts, dirty, tasks
        self._sent: set[tuple[str, str]] = set()
        self._again_soon: set[str] = set()
        self._facts = FactsOfNodes(parts.nodes, parts.presence)

    async def run(self) -> None:
        """Reconciles until cancelled; what fails for a passing reason is looked at again."""
        while True:
            marked = await self._dirty.take(RESYNC_SECONDS)
            ids = {wish.id for wish in self._parts.book} if marked is None else marked
            try:
                await self._pass(ids)
            except AiwmError as error:
                if not error.retryable:
                    raise
                log.warning("reconciling waits: %s", error.message)
                self._look_again(ids, _RETRY_SECONDS)

    def _look_again(self, ids: set[str], seconds: float) -> None:
        """Marks deployments once more after a while; those already waiting for it are not doubled."""
        ids = ids - self._again_soon
        if ids:
            self._again_soon |= ids
            self._tasks.spawn("reconcile again", self._after(ids, seconds))

    async def _after(self, ids: set[str], seconds: float) -> None:
        await self._parts.clock.sleep(seconds)
        self._again_soon -= ids
        for deployment_id in ids:
            self._dirty.mark(deployment_id)

    def fleet(self) -> Fleet:
        """All nodes as placement sees them, with the devices that replicas hold."""
        fleet = Fleet(self._facts.of_all(), isolated=self._parts.vigil.isolated())
        for wish in self._parts.book:
            for replica in self._parts.book.state(wish.id).replicas:
                if replica.active:
                    fleet.take(replica.node_id, replica.gpu_device_ids, replica.replica_id, replica.gpu_share)
        return fleet

    async def _pass(self, ids: set[str]) -> None:
        fleet = self.fleet()
        for deployment_id in sorted(ids):
            wish = self._parts.book.wish(deployment_id)
            if wish is not None:
                with correlated(wish.correlation_id):
                    fleet = await self._reconcile(wish, fleet)
        await self._end_strays(fleet)

    async def _end_strays(self, fleet: Fleet) -> None:
        """Stops what runs for deployments that were deleted; of one that was never stored nothing is concluded."""
        for deployment_id, stop in strays(fleet, {wish.id for wish in self._parts.book}):
            wish = await self._parts.book.wishes.get(deployment_id)
            if wish is not None and wish.deleted_at is not None:
                self._send(wish, stop)

    async def _reconcile(self, wish: Wish, fleet: Fleet) -> Fleet:
        """The fleet with what this deployment took of it."""
        model = await self._model(wish)
        commands: list[Command] = []
        trial = fleet

        def planned(state: DeploymentState) -> DeploymentState:
            # A write that lost a race plans anew: what the lost plan took must be free again.
            nonlocal trial
            trial = fleet.copy()
            after, needed = plan(wish, state, model, trial, lambda: new_id("replica"))
            commands[:] = needed
            return rules.settled(state, after, wish, now=self._parts.clock.now())

        try:
            state = await self._parts.book.observe(wish.id, planned)
        except NotFound:
            return fleet
        if model.problem is not None and wanted(wish):
            self._look_again({wish.id}, _MODEL_SECONDS)
        if wish.deleting and not any(replica.active for replica in state.replicas) and not commands:
            await self._finish(wish)
        for command in commands:
            self._send(wish, command)
        return trial

    async def _finish(self, wish: Wish) -> None:
        try:
            await self._parts.deployments.finish(wish, by=wish.updated_by)
        except Stale:
            # A second DELETE of the user came first, or is about to show in the book.
            self._look_again({wish.id}, _RETRY_SECONDS)

    async def _model(self, wish: Wish) -> ModelFacts:
        record = await self._parts.models.find(wish.model_id)
        if record is None:
            return ModelFacts(name=self._parts.book.state(wish.id).model_name, problem="its model was deleted")
        content = await self._parts.models.content(record.id)
        if content.download_status is DownloadStatus.READY:
            return ModelFacts(name=record.name, problem=None)
        return ModelFacts(name=record.name, problem=f"its model is not ready: {content.download_status.value}")

    def _send(self, wish: Wish, command: Command) -> None:
        """Sends a command unless the same one is still under way."""
        if isinstance(command, Deploy):
            key, work = ("deploy", command.replica.replica_id), self._deploy(wish, command.replica)
        else:
            key, work = ("stop", command.replica_id), self._stop(wish, command)
        if key in self._sent:
            work.close()
            return
        self._sent.add(key)
        self._tasks.spawn(f"{key[0]} {key[1]}", self._sending(key, wish.id, work))

    async def _sending(self, key: tuple[str, str], deployment_id: str, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except AiwmError as error:
            log.warning("command not done", extra={"replicaId": key[1], "code": error.code, "reason": error.message})
            await self._parts.clock.sleep(_RETRY_SECONDS)
        finally:
            self._sent.discard(key)
        self._dirty.mark(deployment_id)

    async def _deploy(self, wish: Wish, replica: Replica) -> None:
        record = await self._parts.models.record(wish.model_id)
        content = await self._parts.models.content(record.id)
        command = wire.DeployCommand(
            deployment_id=wish.id,
            replica_id=replica.replica_id,
            model_id=record.id,
            container_id=replica.container_name or replica.replica_id,
            gpu_device_id=",".join(replica.gpu_device_ids),
            gpu_device_ids=replica.gpu_device_ids,
            deployment_name=wish.name,
            engine=wish.engine,
            engine_args=wish.engine_args,
            environment_variables=wish.environment_variables,
            image=wish.image,
            health_path=wish.health_path,
            port=wish.port,
            resources=wish.resources,
            artifact=self._parts.artifacts.of(record, content),
            generation=replica.generation,
        )
        try:
            await self._parts.commands.call(
                replica.node_id,
                wire.COMMAND_DEPLOY,
                command,
                timeout=_DEPLOY_SECONDS,
                generation=replica.generation,
            )
        except CommandFailed as refused:
            if refused.retryable:
                raise
            await self._turn(wish, replica.replica_id, ReplicaState.FAILED, refused.message)
            return
        session = self._parts.presence.of(replica.node_id)
        if session is not None and replica.replica_id not in session.inventory:
            # It took the order; a node that says what became of it a moment later is not asked a second time.
            session.heard(rules.as_recorded(wish.id, replica.model_copy(update={"state": ReplicaState.STARTING})))

    async def _stop(self, wish: Wish, command: Stop) -> None:
        order = wire.StopCommand(
            deployment_id=wish.id,
            replica_id=command.replica_id,
            grace_seconds=wish.stop_grace_seconds,
            generation=wish.generation,
        )
        timeout = wish.stop_grace_seconds + _STOP_MARGIN_SECONDS
        try:
            await self._parts.commands.call(
                command.node_id, wire.COMMAND_STOP, order, timeout=timeout, generation=wish.generation
            )
        except CommandFailed as refused:
            if refused.code not in _GONE:
                raise
        session = self._parts.presence.of(command.node_id)
        if session is not None:
            session.forgot(command.replica_id)
        await self._turn(wish, command.replica_id, ReplicaState.STOPPED, None)

    async def _turn(self, wish: Wish, replica_id: str, to: ReplicaState, message: str | None) -> None:
        def turned(state: DeploymentState) -> DeploymentState:
            found = next((each for each in state.replicas if each.replica_id == replica_id and each.active), None)
            if found is None:
                return state
            changed = found.model_copy(update={"state": to, "message": message, "health": None})
            return rules.settled(state, rules.with_replica(state, changed), wish, now=self._parts.clock.now())

        try:
            await self._parts.book.observe(wish.id, turned)
        except NotFound:
            return
