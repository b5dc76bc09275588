"""API keys as resources: the key itself is in the answer to its making alone."""

from typing import Annotated

from pydantic import Field, StringConstraints

from aiwm.protocol.base import Name, Params, Timestamp
from aiwm.protocol.resources.base import Metadata, Patch, Resource

Scope = Annotated[
    str, StringConstraints(max_length=300, pattern=r"^(inference|manage|model:[^\x00-\x1f/\\]+(/[^\x00-\x1f/\\]+)?)$")
]
_TEN_YEARS = 3650 * 86_400


class ApiKeyCreate(Params):
    """Scopes: `inference`, `manage` (everything its user may), `model:<deployment name>`. `expiresIn` is in seconds."""

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=50)]
    expires_in: Annotated[int, Field(ge=60, le=_TEN_YEARS)] | None = None
    metadata: Metadata = Field(default_factory=dict)


class ApiKeyPatch(Patch):
    name: Name = ""
    metadata: Metadata = Field(default_factory=dict)


class ApiKey(Resource):
    """`hint` is how the key ends. `lastUsedAt` is at most a minute behind."""

    api_key_id: str
    name: str
    hint: str
    scopes: list[str]
    expires_at: Timestamp | None
    last_used_at: Timestamp | None


class ApiKeyMade(ApiKey):
    """`key` is shown this once."""

    key: str = Field(repr=False)
