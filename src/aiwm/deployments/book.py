"""This controller's view of all deployments, in memory and in the store: every write goes through both.

The gateway looks deployments up here on every request, and the planner sees here which devices are taken; neither
touches the store for it. What other controllers write is read again when they say so; nothing here ever grows older.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Set

from aiwm.deployments.records import DEPLOYMENTS, EVENTS, STATES, DeploymentState, Wish
from aiwm.infra.store.port import Index, Query, Store, Where
from aiwm.infra.store.records import Records
from aiwm.kit.wake import Wake
from aiwm.protocol.errors import NotFound

_AT_ONCE = 500


class Book:
    """Wishes and states by deployment id, and live wishes by organization and name.

    `changed(deployment_id)` is called after each write from here.
    """

    def __init__(self, store: Store, relay: Wake, changed: Callable[[str], None]) -> None:
        self._store, self._relay, self._changed = store, relay, changed
        self.wishes = Records(store, DEPLOYMENTS, Wish)
        self._states = Records(store, STATES, DeploymentState)
        self._wish_by_id: dict[str, Wish] = {}
        self._state_by_id: dict[str, DeploymentState] = {}
        self._id_by_name: dict[tuple[str | None, str], str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        # A wish that was written here and is noted late must not bring back what another controller has deleted since.
        self._deleted: deque[str] = deque(maxlen=1000)

    async def load(self) -> None:
        """Makes the indexes and reads everything that is not deleted."""
        await self._store.ensure_index(Index(DEPLOYMENTS, ("uniqueKey",), unique=True))
        await self._store.ensure_index(Index(DEPLOYMENTS, ("owner.orgId", "createdAt")))
        await self._store.ensure_index(Index(EVENTS, ("deploymentId", "id")))
        await self.reload(None)

    async def reload(self, ids: Set[str] | None) -> None:
        """Reads again what others may have changed; None: everything."""
        if ids is None:
            live = await self.wishes.find(Query((Where("deletedAt", "eq", None),)))
            await self._take(live)
            ids = self._wish_by_id.keys() - {wish.id for wish in live}
        ordered = sorted(ids)
        for start in range(0, len(ordered), _AT_ONCE):
            some = tuple(ordered[start : start + _AT_ONCE])
            await self._take(await self.wishes.find(Query((Where("id", "in", some),))))

    async def _take(self, wishes: list[Wish]) -> None:
        ids = [wish.id for wish in wishes if wish.deleted_at is None]
        states: list[DeploymentState] = []
        for start in range(0, len(ids), _AT_ONCE):
            some = tuple(ids[start : start + _AT_ONCE])
            states += await self._states.find(Query((Where("id", "in", some),)))
        for wish in wishes:
            self._keep_wish(wish)
        for state in states:
            self._keep_state(state)

    def note(self, wish: Wish) -> None:
        """Takes a wish as it was just stored from here."""
        self._keep_wish(wish)
        self._changed(wish.id)

    def _keep_wish(self, wish: Wish) -> None:
        old = self._wish_by_id.get(wish.id)
        if wish.id in self._deleted or (old is not None and old.version >= wish.version):
            return
        if old is not None:
            self._forget_name(old)
        if wish.deleted_at is not None:
            self._wish_by_id.pop(wish.id, None)
            self._state_by_id.pop(wish.id, None)
            self._deleted.append(wish.id)
            return
        self._wish_by_id[wish.id] = wish
        self._id_by_name[(wish.owner.org_id, wish.name)] = wish.id

    def _forget_name(self, wish: Wish) -> None:
        """Unless another deployment has the name already: news of its deletion may come after news of the other."""
        if self._id_by_name.get((wish.owner.org_id, wish.name)) == wish.id:
            del self._id_by_name[(wish.owner.org_id, wish.name)]

    def _keep_state(self, state: DeploymentState) -> None:
        known = self._state_by_id.get(state.id)
        if state.id in self._wish_by_id and (known is None or known.version <= state.version):
            self._state_by_id[state.id] = state

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
        self._keep_state(state.model_copy(update={"version": 1}))
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
        written = False

        def noticed(state: DeploymentState) -> DeploymentState:
            nonlocal written
            after = change(state)
            written = after is not state
            return after

        async with self._locks.setdefault(deployment_id, asyncio.Lock()):
            changed = await self._states.update(deployment_id, noticed)
            if deployment_id not in self._wish_by_id:
                raise NotFound(f"cannot change {deployment_id}: it was deleted", code="DEPLOYMENT_NOT_FOUND")
            self._keep_state(changed)
        if written:
            self._changed(deployment_id)
        if changed.outbox:
            self._relay.set()
        return changed
