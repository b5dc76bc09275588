"""What users may do with deployments: they change the wish, and the reconciler sees to the rest."""

from collections.abc import Sequence

from aiwm.deployments.book import Book
from aiwm.deployments.dirty import Dirty
from aiwm.deployments.engine_rules import OF_ENGINE, check_engine
from aiwm.deployments.last_logs import LastLogs
from aiwm.deployments.placement import Fleet, Rejection, engine_for, place, profile_for, why_nowhere
from aiwm.deployments.planner import need_of
from aiwm.deployments.records import EVENTS, USAGE, Usage, Wish, deployment_view
from aiwm.infra.store.port import Condition, Query, Store, Where
from aiwm.infra.store.records import Records, changed_by_user, new_base, soft_deleted
from aiwm.kit.clock import Clock
from aiwm.models.records import ModelRecord
from aiwm.protocol.errors import Conflict, Invalid, NotFound
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.deployments import (
    Deployment,
    DeploymentCreate,
    DeploymentEvent,
    DeploymentPlan,
    PlacementRejection,
    PlannedReplica,
    StopRequest,
)
from aiwm.protocol.states import DeploymentStatus, DeploymentType, Desired

_RESTARTING = OF_ENGINE | {"resources", "node_selector"}


class DeploymentService:
    """What it changes it marks dirty; `base_url` is the controller's public one."""

    def __init__(self, store: Store, book: Book, clock: Clock, base_url: str, dirty: Dirty) -> None:
        self._store, self._book, self._clock, self._base_url, self._dirty = store, book, clock, base_url, dirty
        self._usage = Records(store, USAGE, Usage)
        self.last_logs = LastLogs(store, book, clock)

    async def create(
        self, params: DeploymentCreate, model: ModelRecord, fleet: Fleet, *, owner: Owner, by: str | None
    ) -> Deployment:
        """Stores the wish; `Conflict` NAME_TAKEN, `Invalid` for what cannot be run."""
        wish = self._wish(params, model, fleet, owner=owner, by=by)
        try:
            wish = await self._book.add(wish)
        except Conflict as taken:
            raise _name_taken(wish.name) from taken
        self._dirty.mark(wish.id)
        return await self.view(wish)

    def _wish(
        self, params: DeploymentCreate, model: ModelRecord, fleet: Fleet, *, owner: Owner, by: str | None
    ) -> Wish:
        if params.deployment_type is DeploymentType.DISTRIBUTED:
            raise Invalid("cannot deploy over several nodes: use deploymentType single", code="NOT_SUPPORTED")
        named = {**dict(params), "pinned_node_id": params.node_id}
        del named["node_id"]
        named["engine"] = params.engine or engine_for(model.framework.value, model.task_type.value)
        named["hardware_profile"] = params.hardware_profile or profile_for(params.resources, fleet, owner.org_id)
        base = new_base("deploy", owner=owner, by=by, at=self._clock.now())
        wish = Wish.model_validate({**base, **named, "unique_key": _unique_key(owner, params.name)})
        check_engine(wish)
        return wish

    def plan(
        self, params: DeploymentCreate, model: ModelRecord, fleet: Fleet, *, owner: Owner, by: str | None
    ) -> DeploymentPlan:
        """What a create would do, without doing it."""
        wish = self._wish(params, model, fleet, owner=owner, by=by)
        placements: list[PlannedReplica] = []
        reason: str | None = None
        rejected: list[Rejection] = []
        need = need_of(wish)
        for number in range(wish.replicas):
            placement, rejected = place(need, fleet)
            if placement is None:
                reason = why_nowhere(rejected)
                break
            devices = list(placement.gpu_device_ids)
            fleet.take(placement.node_id, devices, f"planned-{number}", need.gpu_share)
            placements.append(
                PlannedReplica(node_id=placement.node_id, gpu_device_ids=devices, reason=placement.reason)
            )
        return DeploymentPlan(
            verdict="unplaceable" if reason else "placed",
            reason=reason,
            engine=wish.engine,
            hardware_profile=wish.hardware_profile,
            placements=placements,
            rejected=[PlacementRejection(node_id=e.node_id, name=e.name, reason=e.reason) for e in rejected],
        )

    def wish(self, deployment_id: str) -> Wish:
        """The deployment's wish; `NotFound` also when it was deleted."""
        found = self._book.wish(deployment_id)
        if found is None:
            raise NotFound(
                f"cannot find deployment {deployment_id}: there is none of that id", code="DEPLOYMENT_NOT_FOUND"
            )
        return found

    async def view(self, wish: Wish) -> Deployment:
        """The resource of a wish."""
        usage = await self._usage.get(wish.id) or Usage(id=wish.id)
        return self._joined(wish, usage)

    def _joined(self, wish: Wish, usage: Usage) -> Deployment:
        now = self._clock.now()
        return deployment_view(wish, self._book.state(wish.id), usage, base_url=self._base_url, now=now)

    def with_status(self, status: str | None) -> tuple[Condition, ...]:
        """The condition that keeps a query of deployments to those of that status; none without one."""
        if status is None:
            return ()
        return (Where("id", "in", tuple(each.id for each in self._book if self._book.state(each.id).status == status)),)

    async def page(self, query: Query) -> tuple[Sequence[Deployment], int]:
        """A page of deployments and how many there are in all."""
        wishes = await self._book.wishes.find(query)
        ids = tuple(wish.id for wish in wishes)
        usage = {each.id: each for each in await self._usage.find(Query((Where("id", "in", ids),)))}
        views = [self._joined(wish, usage.get(wish.id, Usage(id=wish.id))) for wish in wishes]
        return views, await self._book.wishes.count(query.where)

    async def events(self, wish: Wish) -> list[DeploymentEvent]:
        """The whole story, oldest first: what was stored and what is still on its way there."""
        query = Query((Where("deploymentId", "eq", wish.id),), sort=("id",), limit=10_000)
        stored = [DeploymentEvent.model_validate(each) for each in await self._store.find(EVENTS, query)]
        waiting = [
            DeploymentEvent.model_validate(fact.data)
            for fact in self._book.state(wish.id).outbox
            if fact.collection == EVENTS
        ]
        return [*stored, *(each for each in waiting if each not in stored)]

    async def change(self, wish: Wish, changes: dict[str, object], *, by: str | None) -> Deployment:
        """Applies what a user set: a new generation, and new replicas where what they start from has changed.

        Raises `Invalid` for what the engine does not take.
        """
        if OF_ENGINE & changes.keys():
            check_engine(wish.model_copy(update=changes))
        generation = wish.generation + 1
        update = {**changes, "generation": generation}
        if any(getattr(wish, name) != value for name, value in changes.items() if name in _RESTARTING):
            update["revision"] = generation
        return await self._write(wish, update, by=by)

    async def start(self, wish: Wish, *, by: str | None) -> Deployment:
        """Wishes it running; one that failed is tried anew, one that runs is left alone."""
        failed = self._book.state(wish.id).status is DeploymentStatus.FAILED
        if wish.desired is Desired.RUNNING and not failed:
            return await self.view(wish)
        return await self.restart(wish, by=by)

    async def restart(self, wish: Wish, *, by: str | None) -> Deployment:
        """Wishes new replicas in place of all there are."""
        generation = wish.generation + 1
        update = {"desired": Desired.RUNNING, "generation": generation, "revision": generation, "stop_force": False}
        return await self._write(wish, update, by=by)

    async def stop(self, wish: Wish, request: StopRequest, *, by: str | None) -> Deployment:
        """Wishes it stopped; `force` also gives up replicas on nodes that are away."""
        if wish.desired is Desired.STOPPED and wish.stop_force >= request.force:
            return await self.view(wish)
        update = {
            "desired": Desired.STOPPED,
            "generation": wish.generation + 1,
            "stop_force": request.force,
            "stop_grace_seconds": request.timeout_seconds,
        }
        return await self._write(wish, update, by=by)

    async def delete(self, wish: Wish, *, by: str | None) -> bool:
        """Deletes it once nothing of it runs; whether that is so already."""
        if any(replica.active for replica in self._book.state(wish.id).replicas):
            if not wish.deleting:
                update = {"deleting": True, "desired": Desired.STOPPED, "generation": wish.generation + 1}
                await self._write(wish, update, by=by)
            return False
        await self.finish(wish, by=by)
        return True

    async def finish(self, wish: Wish, *, by: str | None) -> None:
        """Takes a deployment of which nothing runs out of the world; its story stays."""
        self._book.note(await self._book.wishes.replace(soft_deleted(wish, by=by, at=self._clock.now())))
        await self.last_logs.forget(wish.id)
        self._dirty.mark(wish.id)

    def on_node(self, node_id: str) -> bool:
        """Whether any replica may still run on that node."""
        return node_id in self.nodes_in_use()

    def nodes_in_use(self) -> set[str]:
        """The nodes on which replicas may still run."""
        replicas = (replica for wish in self._book for replica in self._book.state(wish.id).replicas)
        return {replica.node_id for replica in replicas if replica.active}

    async def uses(self, model_id: str) -> bool:
        """Whether a deployment wants this model."""
        return any(wish.model_id == model_id for wish in self._book)

    async def _write(self, wish: Wish, changes: dict[str, object], *, by: str | None) -> Deployment:
        if wish.deleting:
            raise Conflict("cannot change this deployment: it is being deleted", code="DEPLOYMENT_DELETING")
        changed = changed_by_user(wish, changes, by=by, at=self._clock.now())
        changed = changed.model_copy(update={"unique_key": _unique_key(changed.owner, changed.name)})
        try:
            changed = await self._book.wishes.replace(changed)
        except Conflict as taken:
            raise _name_taken(changed.name) from taken
        self._book.note(changed)
        self._dirty.mark(changed.id)
        return await self.view(changed)


def _unique_key(owner: Owner, name: str) -> str:
    return f"{owner.org_id or ''}/{name}"


def _name_taken(name: str) -> Conflict:
    return Conflict(f"cannot use the name {name!r}: another deployment has it", code="NAME_TAKEN")
