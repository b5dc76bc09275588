"""Signing in: who somebody is, and the tokens that say so."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from aiwm.protocol.base import Params, View
from aiwm.protocol.states import PrincipalKind


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
