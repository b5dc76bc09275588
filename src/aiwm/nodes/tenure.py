"""How long a node's token is good for: whether its connection may be there, and when it is given a new one. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from aiwm.nodes.records import NodeRecord
from aiwm.protocol.errors import Unauthenticated

_SHARE_LEFT = 0.2
_LEAST_LEFT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Tenure:
    """From when until when a node's token is good."""

    issued_at: datetime
    expires_at: datetime


def check(node: NodeRecord | None, held: Tenure, *, now: datetime) -> NodeRecord:
    """The node, when it may be connected by its token; refusals carry the codes of the contract's section 5."""
    if held.expires_at <= now:
        raise Unauthenticated("cannot connect: the token has expired; give the node a new one", code="TOKEN_EXPIRED")
    if node is None:
        raise Unauthenticated("cannot connect: no such node is registered", code="NODE_NOT_FOUND")
    if node.deleted_at is not None:
        raise Unauthenticated("cannot connect: this node was deleted", code="NODE_INACTIVE")
    if node.tokens_from is not None and held.issued_at <= node.tokens_from:
        raise Unauthenticated("cannot connect: the token was revoked; give the node a new one", code="TOKEN_INVALID")
    if not node.role:
        raise Unauthenticated("cannot connect: this node has no role", code="ROLE_MISSING")
    return node


def renewal_due(held: Tenure, *, now: datetime) -> bool:
    """Whether a fifth of the token's life is left, or less than a day of a longer life, or half of a shorter one."""
    life, left = held.expires_at - held.issued_at, held.expires_at - now
    return left < max(life * _SHARE_LEFT, min(_LEAST_LEFT, life / 2))
