"""Users of an external IAM: their tokens say who they are and what roles they have; we keep that they were here.

The kept record is what notifications and API keys of such a user refer to, and what an owner makes inactive here to
shut somebody out whom the IAM still lets in.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime

from aiwm.access.principal import UNIVERSE_ROLES, Principal
from aiwm.access.records import UserRecord
from aiwm.access.service import Users
from aiwm.infra.jwks import ExternalClaims, ExternalTokens
from aiwm.kit.clock import Clock
from aiwm.protocol.errors import Conflict, Unauthenticated
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import PrincipalKind, Role

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_MAX_NAME = 128
_ROLES = {role.value: role for role in Role}


class ExternalUsers:
    """From tokens of the IAM to principals."""

    def __init__(self, tokens: ExternalTokens, users: Users, clock: Clock) -> None:
        self._tokens, self._users, self._clock = tokens, users, clock

    def speaks(self, token: str) -> bool:
        """Whether a token is the IAM's to vouch for."""
        return self._tokens.speaks(token)

    async def principal(self, token: str) -> tuple[Principal, datetime]:
        """Who brings the token, and until when it is good. Raises `Unauthenticated`, `Unavailable`."""
        claims = await self._tokens.verify(token)
        org_id = await self._organization(claims.values)
        roles = roles_of(claims.values, org_id)
        user = await self._kept(claims, org_id, roles)
        who = Principal(PrincipalKind.USER, user.id, user.username, org_id, roles)
        return who, claims.expires_at

    async def _organization(self, values: Mapping[str, object]) -> str | None:
        org_id = values.get("orgId")
        if org_id is None:
            return None
        found = await self._users.organizations.get(org_id) if isinstance(org_id, str) and org_id else None
        if found is None or found.deleted_at is not None:
            raise _refused("its orgId is no organization here; have one made, or the claim corrected")
        return found.id

    async def _kept(self, claims: ExternalClaims, org_id: str | None, roles: frozenset[Role]) -> UserRecord:
        """The user's record, made at the first visit and kept in step; another user's of that id is never taken."""
        user_id = user_id_of(claims.subject)
        said = {"username": _username(claims), "org_id": org_id, "roles": sorted(roles)}
        found = await self._users.users.get(user_id)
        if found is None:
            found = await self._first_visit(user_id, said)
        if not found.external or not found.usable:
            raise _refused("its user is inactive here, or another's")
        if {name: getattr(found, name) for name in said} == said:
            return found
        owner = Owner(org_id=org_id, user_id=user_id)
        now = self._clock.now()
        return await self._users.users.update(
            user_id, lambda user: user.model_copy(update={**said, "owner": owner, "updated_at": now})
        )

    async def _first_visit(self, user_id: str, said: Mapping[str, object]) -> UserRecord:
        now = self._clock.now()
        record = UserRecord.model_validate(
            {
                "id": user_id,
                "owner": Owner(org_id=said["org_id"], user_id=user_id),
                "created_at": now,
                "updated_at": now,
                "unique_key": f"external:{user_id}",
                "password_hash": "",
                "external": True,
                **said,
            }
        )
        try:
            return await self._users.users.insert(record)
        except Conflict:
            # Another request of the same user was first.
            found = await self._users.users.get(user_id)
            if found is None:
                raise _refused("its name is taken by another user here") from None
            return found


def roles_of(values: Mapping[str, object], org_id: str | None) -> frozenset[Role]:
    """The roles a token names; what is no role of ours is dropped. `Unauthenticated` for one that lacks its orgId."""
    named = values.get("roles")
    names = [each for each in named if isinstance(each, str)] if isinstance(named, list) else []
    roles = frozenset(_ROLES[each] for each in names if each in _ROLES)
    if org_id is None and roles - UNIVERSE_ROLES:
        raise _refused("it has organization roles but no orgId")
    return roles


def user_id_of(subject: str) -> str:
    """The subject itself where it can be an id here, else one made of it."""
    if _ID.fullmatch(subject):
        return subject
    return "user-" + hashlib.sha256(subject.encode(errors="surrogatepass")).hexdigest()[:26]


def _username(claims: ExternalClaims) -> str:
    name = claims.values.get("username")
    name = name if isinstance(name, str) and name.strip() and name.isprintable() else claims.subject
    return name.strip()[:_MAX_NAME]


def _refused(cause: str) -> Unauthenticated:
    return Unauthenticated(f"cannot accept the token: {cause}", code="TOKEN_INVALID")
