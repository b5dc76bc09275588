"""Signing in: who somebody is, and the tokens that say so; users and organizations as resources."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from aiwm.protocol.base import Id, Name, Params, View
from aiwm.protocol.resources.base import Metadata, Patch, Resource
from aiwm.protocol.states import PrincipalKind, Role

Password = Annotated[str, StringConstraints(min_length=8, max_length=1024)]
Roles = Annotated[list[Role], Field(min_length=1, max_length=len(Role))]


class LoginRequest(Params):
    username: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    password: Annotated[str, StringConstraints(min_length=1, max_length=1024)] = Field(repr=False)


class TokenPair(View):
    """`expiresIn` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the scheme's name
    expires_in: int


class RefreshRequest(Params):
    refresh_token: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = Field(repr=False)


class Me(View):
    user_id: str
    username: str
    org_id: str | None
    roles: list[str]
    kind: PrincipalKind


class User(Resource):
    user_id: str
    username: str
    org_id: str | None
    roles: list[Role]
    is_active: bool


class UserCreate(Params):
    """Without `orgId` the user joins the caller's organization. Roles are all `universe.*` or all `organization.*`."""

    username: Name
    password: Password = Field(repr=False)
    roles: Roles
    org_id: Id | None = None
    metadata: Metadata = Field(default_factory=dict)


class UserPatch(Patch):
    is_active: bool = True
    roles: Roles = []
    metadata: Metadata = Field(default_factory=dict)


class PasswordChange(Params):
    password: Password = Field(repr=False)


class Organization(Resource):
    org_id: str
    name: str


class OrganizationCreate(Params):
    name: Name
    metadata: Metadata = Field(default_factory=dict)


class OrganizationPatch(Patch):
    name: Name = ""
    metadata: Metadata = Field(default_factory=dict)
