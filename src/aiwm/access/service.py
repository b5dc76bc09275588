"""Signing in and out, the identity behind a token, and who belongs to which organization."""

from collections.abc import Sequence
from datetime import timedelta

from aiwm.access.passwords import Passwords
from aiwm.access.principal import Principal
from aiwm.access.records import ORGANIZATIONS, SESSIONS, USERS, OrganizationRecord, SessionRecord, UserRecord
from aiwm.infra.store.port import Index, Query, Store, Where
from aiwm.infra.store.records import Records
from aiwm.infra.tokens import Claims, Tokens
from aiwm.kit.clock import Clock
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import NotFound, Unauthenticated
from aiwm.protocol.resources.access import TokenPair
from aiwm.protocol.states import PrincipalKind

ACCESS_SECONDS = 3600
REFRESH_SECONDS = 30 * 86_400
SESSION_CLAIM = "sessionId"


class Users:
    """Users of this installation. Answers of `login` never tell whether a username exists."""

    def __init__(self, store: Store, tokens: Tokens, passwords: Passwords, clock: Clock) -> None:
        self._store, self._tokens, self._passwords, self._clock = store, tokens, passwords, clock
        self.users = Records(store, USERS, UserRecord)
        self.organizations = Records(store, ORGANIZATIONS, OrganizationRecord)
        self._sessions = Records(store, SESSIONS, SessionRecord)

    async def prepare(self) -> None:
        """Makes the indexes."""
        await self._store.ensure_index(Index(USERS, ("uniqueKey",), unique=True))
        await self._store.ensure_index(Index(USERS, ("orgId",)))
        await self._store.ensure_index(Index(ORGANIZATIONS, ("uniqueKey",), unique=True))
        await self._store.ensure_index(Index(SESSIONS, ("userId",)))

    async def by_username(self, username: str) -> UserRecord | None:
        """The user of that name, in any letter case."""
        found = await self.users.find(Query((Where("uniqueKey", "eq", username.lower()),), limit=1))
        return found[0] if found else None

    async def login(self, username: str, password: str) -> TokenPair:
        """Tokens of a new session; `Unauthenticated` (`CREDENTIALS_WRONG`) in every other case."""
        user = await self.by_username(username)
        right = await self._passwords.matches(password, user.password_hash if user else None)
        if user is None or not right or not _usable(user):
            raise Unauthenticated("cannot sign in: username or password is wrong", code="CREDENTIALS_WRONG")
        now = self._clock.now()
        await self._store.delete_range(SESSIONS, (Where("userId", "eq", user.id), Where("expiresAt", "lt", now)))
        expires_at = now + timedelta(seconds=REFRESH_SECONDS)
        session = SessionRecord(id=new_id("session"), user_id=user.id, expires_at=expires_at)
        await self._sessions.insert(session)
        return self._pair(user.id, session.id)

    async def refresh(self, token: str) -> TokenPair:
        """New tokens of the session that a refresh token belongs to, which now lasts longer."""
        claims = self._tokens.verify_refresh(token, PrincipalKind.USER)
        await self.principal(claims)
        expires_at = self._clock.now() + timedelta(seconds=REFRESH_SECONDS)
        session_id = str(claims.values.get(SESSION_CLAIM))
        try:
            await self._sessions.update(session_id, lambda s: s.model_copy(update={"expires_at": expires_at}))
        except NotFound as error:
            raise _signed_out() from error
        return self._pair(claims.subject, session_id)

    async def logout(self, token: str | None) -> None:
        """Ends the session of an access token: none of its tokens is good any more."""
        claims = self._tokens.verify(token, PrincipalKind.USER)
        await self._sessions.delete(str(claims.values.get(SESSION_CLAIM)))

    async def principal(self, claims: Claims) -> Principal:
        """Who a verified token's bearer is now; `Unauthenticated` (`TOKEN_INVALID`) when it signed out or is gone."""
        user = await self.users.get(claims.subject)
        if user is None or not _usable(user):
            raise Unauthenticated("cannot accept the token: its user is gone or inactive", code="TOKEN_INVALID")
        session_id = claims.values.get(SESSION_CLAIM)
        if session_id is not None and await self._sessions.get(str(session_id)) is None:
            raise _signed_out()
        return Principal(claims.kind, user.id, user.username, user.org_id, frozenset(user.roles))

    async def members(self, org_ids: Sequence[str]) -> dict[str, list[str]]:
        """Ids of the active users of each organization."""
        users = await self.users.find(Query((*_ACTIVE, Where("orgId", "in", tuple(org_ids)))))
        return {org_id: [user.id for user in users if user.org_id == org_id] for org_id in org_ids}

    async def existing(self, user_ids: Sequence[str]) -> list[str]:
        """Those of `user_ids` that are active users."""
        return [user.id for user in await self.users.find(Query((*_ACTIVE, Where("id", "in", tuple(user_ids)))))]

    async def everyone(self) -> list[str]:
        """Ids of all active users."""
        return [user.id for user in await self.users.find(Query(_ACTIVE))]

    def _pair(self, user_id: str, session_id: str) -> TokenPair:
        values = {SESSION_CLAIM: session_id}
        access, _ = self._tokens.issue(PrincipalKind.USER, user_id, expires_in=ACCESS_SECONDS, values=values)
        refresh, _ = self._tokens.issue(
            PrincipalKind.USER, user_id, expires_in=REFRESH_SECONDS, values=values, use="refresh"
        )
        return TokenPair(access_token=access, refresh_token=refresh, expires_in=ACCESS_SECONDS)


_ACTIVE = (Where("deletedAt", "eq", None), Where("isActive", "eq", True))


def _usable(user: UserRecord) -> bool:
    return user.is_active and user.deleted_at is None


def _signed_out() -> Unauthenticated:
    return Unauthenticated("cannot accept the token: its session has ended; sign in again", code="TOKEN_INVALID")
