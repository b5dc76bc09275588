"""What is stored of a join token, and how it is shown. The token itself is stored nowhere."""

from datetime import datetime

from aiwm.infra.store.records import OwnedRecord
from aiwm.protocol.base import Timestamp
from aiwm.protocol.resources.join_tokens import JoinToken, JoinTokenStatus
from aiwm.protocol.states import NodeRole

JOIN_TOKENS = "joinTokens"


class JoinTokenRecord(OwnedRecord):
    """`digest` is the token's SHA-256, and `hint` how it ends.

    `node_id` is who joins by it: the node it `readmits`, or one that is to be made under an id chosen beforehand, so
    that one token can never make two. `join_key` is the SHA-256 of the key it was used with to readmit; of a new node
    the node's own record keeps it.
    """

    digest: str
    hint: str
    role: list[NodeRole] = []
    labels: dict[str, str] = {}
    node_id: str
    readmits: bool = False
    expires_at: Timestamp
    used_at: Timestamp | None = None
    join_key: str | None = None

    def status(self, now: datetime) -> JoinTokenStatus:
        """What it is at `now`."""
        if self.used_at is not None:
            return JoinTokenStatus.USED
        return JoinTokenStatus.EXPIRED if self.expires_at <= now else JoinTokenStatus.UNUSED


def join_token_view(record: JoinTokenRecord, now: datetime) -> JoinToken:
    """The resource of a join token."""
    own = ("hint", "role", "labels", "expires_at", "used_at")
    return JoinToken.model_validate(
        {
            **record.base(),
            "join_token_id": record.id,
            "status": record.status(now),
            "node_id": record.node_id if record.readmits else None,
            "used_by": record.node_id if record.used_at is not None else None,
            **{name: getattr(record, name) for name in own},
        }
    )
