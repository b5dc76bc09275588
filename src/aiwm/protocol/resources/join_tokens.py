"""Join tokens: what lets one machine in, once; and what a machine says and is answered when it joins."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from aiwm.protocol.base import Id, Name, Params, Timestamp, View
from aiwm.protocol.resources.base import Metadata, Patch, Resource
from aiwm.protocol.resources.nodes import Labels
from aiwm.protocol.states import NodeRole

LONGEST_SECONDS = 3600
_USUAL_SECONDS = 900
_OF_THE_NODE = ("role", "labels", "shared")


class JoinTokenStatus(StrEnum):
    """A revoked one is gone like every deleted resource."""

    UNUSED = "unused"
    USED = "used"
    EXPIRED = "expired"


class JoinTokenCreate(Params):
    """`expiresIn` is in seconds, an hour at most. `role`, `labels` and `shared` are those of the node that joins.

    With `nodeId` the token lets a machine in as that node, which stays what it is: after a revocation, a lost disk.
    """

    expires_in: Annotated[int, Field(ge=60, le=LONGEST_SECONDS)] = _USUAL_SECONDS
    role: Annotated[list[NodeRole], Field(min_length=1, max_length=3)] = [NodeRole.WORKER]
    labels: Labels = Field(default_factory=dict)
    shared: bool = False
    node_id: Id | None = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_or_the_other(self) -> "JoinTokenCreate":
        if self.node_id is not None and (given := [name for name in _OF_THE_NODE if name in self.model_fields_set]):
            raise ValueError(f"with nodeId the node stays what it is: leave out {', '.join(given)}")
        return self


class JoinTokenPatch(Patch):
    metadata: Metadata = Field(default_factory=dict)


class JoinToken(Resource):
    """`hint` is how the token ends; `nodeId` the node it lets in again, null for a new one; `usedBy` who joined."""

    join_token_id: str
    hint: str
    status: JoinTokenStatus
    role: list[NodeRole]
    labels: dict[str, str]
    node_id: str | None
    expires_at: Timestamp
    used_at: Timestamp | None
    used_by: str | None


class JoinTokenMade(JoinToken):
    """`token` is shown this once."""

    token: str = Field(repr=False)


class NodeJoin(Params):
    """What a machine says of itself: a name, which a token for a known node overrides.

    `joinKey` is a random text that it made and keeps: the same token with the same key is answered again, so that an
    answer that was lost costs nothing. `nodeId` is who it was before, if it was: no other node is made of it then.
    """

    join_token: Annotated[str, Field(max_length=256, repr=False)]
    name: Name
    join_key: Annotated[str, Field(min_length=32, max_length=256)] | None = Field(default=None, repr=False)
    node_id: Id | None = None


class NodeJoined(View):
    """Who it is now, and the token its daemon dials in with."""

    node_id: str
    token: str = Field(repr=False)
    expires_at: Timestamp
