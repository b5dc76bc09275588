"""A machine joins: it shows a join token and becomes a node, once.

What decides is one write: of a new node the insertion under the id that its token chose beforehand, of a known one
the compare-and-set on the token. So whatever dies in between, in whichever controller, one token makes one node at
most, and whoever was first may ask again for its answer.
"""

from aiwm.access.attempts import Attempts
from aiwm.access.service import Users
from aiwm.kit.acting import Actor, acted_by, acted_on
from aiwm.kit.clock import Clock
from aiwm.nodes import join_rules
from aiwm.nodes.join_records import JoinTokenRecord
from aiwm.nodes.join_tokens import JoinTokens, digest, id_in
from aiwm.nodes.records import NodeRecord
from aiwm.nodes.service import NodeService
from aiwm.protocol.errors import NotFound, Unauthenticated
from aiwm.protocol.resources.join_tokens import NodeJoin, NodeJoined

TOKEN_SECONDS = 30 * 86_400


class Joining:
    """Lets machines in."""

    def __init__(self, tokens: JoinTokens, nodes: NodeService, users: Users, attempts: Attempts, clock: Clock) -> None:
        self._tokens, self._nodes, self._users = tokens, nodes, users
        self._attempts, self._clock = attempts, clock

    async def join(self, params: NodeJoin, address: str) -> NodeJoined:
        """The node that the machine at `address` is from now on.

        `Unauthenticated`: `JOIN_TOKEN_INVALID|EXPIRED|USED`; `Conflict`: `NAME_TAKEN`, which leaves the token unused,
        and `JOIN_NODE_MISMATCH`; `TooMany` (`JOIN_DELAYED`) after many failures.
        """
        record = await self._shown(params.join_token, address)
        join_rules.check_maker(await self._users.users.get(record.created_by or ""))
        join_rules.check_identity(record, params.node_id)
        key = None if params.join_key is None else digest(params.join_key)
        node = await (self._readmit(record, key) if record.readmits else self._admit(record, params.name, key))
        acted_by(Actor("node", node.id, node.name, node.owner.org_id))
        acted_on(node.id, node.owner.org_id)
        made = self._nodes.token(node, TOKEN_SECONDS)
        return NodeJoined(node_id=node.id, token=made.token, expires_at=made.expires_at)

    async def _shown(self, token: str, address: str) -> JoinTokenRecord:
        with self._attempts.attempt(id_in(token), address) as attempt:
            record = await self._tokens.shown(token)
            attempt.right = record is not None
        if record is None:
            raise join_rules.invalid()
        return record

    async def _readmit(self, record: JoinTokenRecord, key: str | None) -> NodeRecord:
        # From the store: another controller may have let it in a moment ago.
        node = await self._nodes.under_id(record.node_id)
        if node is None or node.deleted_at is not None:
            raise join_rules.invalid()
        join_rules.check_not_revoked(record, node)
        await self._tokens.readmit(record, key)
        return node

    async def _admit(self, record: JoinTokenRecord, name: str, key: str | None) -> NodeRecord:
        now = self._clock.now()
        node, is_new = await self._nodes.under_id(record.node_id), False
        if node is None:
            join_rules.check_unused(record, now)
            node, is_new = await self._nodes.join(join_rules.new_node(record, name, key, now))
        if not is_new:
            join_rules.check_not_revoked(record, node)
            # One that was deleted stays so, whoever comes again.
            join_rules.check_again(record, None if node.deleted_at else node.join_key, key, now)
        try:
            await self._tokens.note_used(record)
        except (Unauthenticated, NotFound) as revoked:
            if is_new:
                await self._nodes.delete(node, by=None)
            raise join_rules.invalid() from revoked
        return node
