"""This controller's view of all deployments, in memory and in the store: every write goes through both.

The gateway looks deployments up here on every request, and the planner sees here which devices are taken; neither
touches the store for it.
"""

import asyncio
from collections.abc import Callable, Iterator

from aiwm.deployments.records import DEPLOYMENTS, EVENTS, STATES, DeploymentState, Wish
from aiwm.infra.store.port import Index, Query, Store, Where
from aiwm.infra.store.records import Records
from aiwm.kit.wake import Wake
from aiwm.protocol.errors import NotFound


class Book:
    """Wishes and states by deployment id, and live wishes by organization and name."""

    def __init__(self, store: Store, relay: Wake) -> None:
        self._store, self._relay = store, relay
        self.wishes = Records(store, DEPLOYMENTS, Wish)
        self._states = Records(store, STATES, DeploymentState)
        self._wish_by_id: dict[str, Wish] = {}
        self._state_by_id: dict[str, DeploymentState] = {}
        self._id_by_name: dict[tuple[str | None, str], str] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def load(self) -> None:
        """Makes the indexes and reads everything that is not deleted."""
        await self._store.ensure_index(Index(DEPLOYMENTS, ("uniqueKey",), unique=True))
        await self._store.ensure_index(Index(DEPLOYMENTS, ("owner.orgId", "createdAt")))
        await self._store.ensure_index(Index(EVENTS, ("deploymentId", "id")))
        for wish in await self.wishes.find(Query((Where("deletedAt", "eq", None),))):
            self.note(wish)
        ids = tuple(self._wish_by_id)
        for state in await self._states.find(Query((Where("id", "in", ids),))):
            self._state_by_id[state.id] = state

    def note(self, wish: Wish) -> None:
        """Takes a wish as it was just stored."""
        old = self._wish_by_id.get(wish.id)
        if old is not None:
            self._id_by_name.pop((old.owner.org_id, old.name), None)
        if wish.deleted_at is not None:
            self._wish_by_id.pop(wish.id, None)
            self._state_by_id.pop(wish.id, None)
            return
        self._wish_by_id[wish.id] = wish
        self._id_by_name[(wish.owner.org_id, wish.name)] = wish.id

    async def add(self, wish: Wish) -> Wish:
        """Stores a new deployment, its state first; `Conflict` when the name is taken, with nothing left behind."""
        state = DeploymentState(id=wish.id)
        await self._states.insert(state)
        try:
            wish = await self.wishes.insert(wish)
        except BaseException:
            await self._states.delete(wish.id)
            raise
        self.note(wish)
        self._state_by_id[wish.id] = state.model_copy(update={"version": 1})
        return wish

    def wish(self, deployment_id: str) -> Wish | None:
        """The wish, unless it is deleted or never was."""
        return self._wish_by_id.get(deployment_id)

    def state(self, deployment_id: str) -> DeploymentState:
        """What is seen of a deployment."""
        return self._state_by_id.get(deployment_id) or DeploymentState(id=deployment_id)

    def named(self, org_id: str | None, name: str) -> Wish | None:
        """The live deployment of that name in that organization."""
        found = self._id_by_name.get((org_id, name))
        return None if found is None else self._wish_by_id.get(found)

    def concerned(self, node_id: str) -> set[str]:
        """The deployments that a change of this node may matter to: those with replicas there, and those that wait."""
        return {
            wish.id
            for wish in self._wish_by_id.values()
            if (state := self.state(wish.id)).waiting_reason is not None
            or any(replica.node_id == node_id for replica in state.replicas)
        }

    def __iter__(self) -> Iterator[Wish]:
        return iter(list(self._wish_by_id.values()))

    async def observe(
        self, deployment_id: str, change: Callable[[DeploymentState], DeploymentState]
    ) -> DeploymentState:
        """Changes a state in store and memory, one change of a deployment at a time."""
        async with self._locks.setdefault(deployment_id, asyncio.Lock()):
            changed = await self._states.update(deployment_id, change)
            if deployment_id not in self._wish_by_id:
                raise NotFound(f"cannot change {deployment_id}: it was deleted", code="DEPLOYMENT_NOT_FOUND")
            self._state_by_id[deployment_id] = changed
        if changed.outbox:
            self._relay.set()
        return changed
