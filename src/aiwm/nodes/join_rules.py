"""Who may join by a join token, decided: once, in time, as whom it says. Pure.

A token is used up by its first joiner. Only that one may come again, with the key it came with and while the token
lasts: the answer may have been lost on its way, and the node must neither be doubled nor stay without a token.
"""

import hmac
from datetime import datetime

from aiwm.access import policy
from aiwm.access.principal import Principal
from aiwm.access.records import UserRecord
from aiwm.nodes.join_records import JoinTokenRecord
from aiwm.nodes.records import NodeRecord
from aiwm.protocol.errors import Conflict, Unauthenticated
from aiwm.protocol.states import PrincipalKind

PERMISSION = "nodes.write"


def check_maker(maker: UserRecord | None) -> None:
    """A join token is never more than the user who made it is now."""
    if maker is None or not maker.usable:
        raise invalid()
    who = Principal(PrincipalKind.USER, maker.id, maker.username, maker.org_id, frozenset(maker.roles))
    if not policy.may(who, PERMISSION):
        raise invalid()


def check_identity(record: JoinTokenRecord, known_as: str | None) -> None:
    """A machine that is a node already joins as that one or not at all: its engines belong to it."""
    if known_as is not None and not (record.readmits and record.node_id == known_as):
        raise Conflict(
            f"cannot join as another node: this machine is {known_as}, and its engines belong to that; "
            "make a join token for that node, or give the daemon another data folder",
            code="JOIN_NODE_MISMATCH",
        )


def check_not_revoked(record: JoinTokenRecord, node: NodeRecord) -> None:
    """A revocation ends every token made for a node until then, join tokens too."""
    if node.tokens_from is not None and record.created_at <= node.tokens_from:
        raise invalid()


def check_unused(record: JoinTokenRecord, now: datetime) -> None:
    """Raises for a token that was used or has expired."""
    if record.used_at is not None:
        raise _used()
    if record.expires_at <= now:
        raise _expired()


def check_again(record: JoinTokenRecord, used_with: str | None, key: str | None, now: datetime) -> None:
    """Raises unless the one who used the token up comes again, in time. Both keys are digests."""
    if used_with is None or key is None or not hmac.compare_digest(used_with, key):
        raise _used()
    if record.expires_at <= now:
        raise _expired()


def readmitted(record: JoinTokenRecord, key: str | None, now: datetime) -> JoinTokenRecord:
    """The token as used by a joiner with `key`; the same one when that joiner comes again."""
    if record.deleted_at is not None:
        raise invalid()
    if record.used_at is not None:
        check_again(record, record.join_key, key, now)
        return record
    check_unused(record, now)
    return record.model_copy(update={"used_at": now, "join_key": key})


def noted(record: JoinTokenRecord, now: datetime) -> JoinTokenRecord:
    """The token as used by the new node that was made by it; refused when it was revoked in the meantime."""
    if record.deleted_at is not None:
        raise invalid()
    return record if record.used_at is not None else record.model_copy(update={"used_at": now})


def new_node(record: JoinTokenRecord, name: str, key: str | None, now: datetime) -> NodeRecord:
    """The node that joins: what it is says the token, and only its name the machine."""
    return NodeRecord(
        id=record.node_id,
        owner=record.owner,
        created_by=record.created_by,
        updated_by=record.created_by,
        created_at=now,
        updated_at=now,
        name=name,
        role=record.role,
        labels=record.labels,
        join_key=key,
    )


def invalid() -> Unauthenticated:
    """The refusal of what is no join token, or no longer one."""
    return Unauthenticated(
        "cannot join: the join token is none, or was revoked; make another one", code="JOIN_TOKEN_INVALID"
    )


def _used() -> Unauthenticated:
    return Unauthenticated(
        "cannot join: the join token was used already, and it is good for one machine; make another one",
        code="JOIN_TOKEN_USED",
    )


def _expired() -> Unauthenticated:
    return Unauthenticated("cannot join: the join token has expired; make another one", code="JOIN_TOKEN_EXPIRED")
