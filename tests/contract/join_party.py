"""Everything that lets machines in, over one store; as a process, it joins once, at a moment all agreed on.

python -m tests.contract.join_party STORE_URL TOKEN NAME ADDRESS WHEN
"""

import asyncio
import sys
import time
from dataclasses import dataclass

from aiwm.access.attempts import Attempts
from aiwm.access.records import UserRecord
from aiwm.access.service import Users
from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Store
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import Clock, SystemClock
from aiwm.kit.ids import new_id
from aiwm.kit.wake import Wake
from aiwm.nodes.join_tokens import JoinTokens
from aiwm.nodes.joining import Joining
from aiwm.nodes.records import NodeRecord
from aiwm.nodes.roster import Roster
from aiwm.nodes.service import NodeService
from aiwm.protocol.errors import AiwmError
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.join_tokens import JoinTokenCreate, JoinTokenMade, NodeJoin, NodeJoined
from aiwm.protocol.resources.nodes import NodeCreate
from aiwm.protocol.states import Role

OWNER = Owner(org_id="org-1", user_id="user-1")


@dataclass
class Party:
    """One controller's part in joining."""

    store: Store
    clock: Clock
    users: Users
    roster: Roster
    nodes: NodeService
    tokens: JoinTokens
    joining: Joining

    async def join(self, token: str, name: str, address: str = "10.0.0.1", **more: str) -> NodeJoined:
        params = NodeJoin.model_validate({"joinToken": token, "name": name, **more})
        return await self.joining.join(params, address)

    async def outcome(self, token: str, name: str, address: str = "10.0.0.1", **more: str) -> str:
        """The node's id, or the code of the refusal."""
        try:
            return (await self.join(token, name, address, **more)).node_id
        except AiwmError as error:
            return error.code

    async def token(self, **params: object) -> JoinTokenMade:
        return await self.tokens.create(JoinTokenCreate.model_validate(params), owner=OWNER, by="user-1")

    async def node(self, name: str) -> NodeRecord:
        made = await self.nodes.create(NodeCreate(name=name), owner=OWNER, by="user-1")
        return self.nodes.record(made.node_id)

    async def names(self) -> list[str]:
        """The names of all nodes there are."""
        await self.roster.load()
        return sorted(node.name for node, _ in self.nodes.fleet())


def party(store: Store, clock: Clock | None = None) -> Party:
    clock = clock or SystemClock()
    users, tokens = Users(store), JoinTokens(store, clock)
    roster = Roster(store, clock, Wake(), lambda _: None)
    nodes = NodeService(store, roster, Tokens((b"k" * 32,), clock), clock, lambda _: None)
    joining = Joining(tokens, nodes, users, Attempts(clock, doing="join", code="JOIN_DELAYED"), clock)
    return Party(store, clock, users, roster, nodes, tokens, joining)


async def prepared(store: Store, clock: Clock | None = None) -> Party:
    """The same with its indexes, and the user who makes join tokens."""
    made = party(store, clock)
    await made.users.prepare()
    await made.roster.load()
    await made.tokens.prepare()
    now = made.clock.now()
    maker = UserRecord(
        id="user-1",
        owner=Owner(org_id="org-1"),
        created_at=now,
        updated_at=now,
        unique_key=new_id("ann"),
        username="ann",
        password_hash="",
        org_id="org-1",
        roles=[Role.ORGANIZATION_EDITOR],
    )
    await made.users.users.insert(maker)
    return made


async def _once(url: str, token: str, name: str, address: str, when: float) -> str:
    store = await open_store(url)
    try:
        here = party(store)
        await here.names()
        print("ready", flush=True)
        await asyncio.sleep(max(0.0, when - time.time()))
        return await here.outcome(token, name, address)
    finally:
        await store.close()


if __name__ == "__main__":
    _, store_url, shown, called, at, moment = sys.argv
    print(asyncio.run(_once(store_url, shown, called, at, float(moment))))
