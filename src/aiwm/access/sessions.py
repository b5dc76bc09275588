"""Sessions: from a sign-in to a sign-out. Access tokens are short, and each refresh token is good for one use.

A session counts how often its tokens were renewed, and a refresh token carries the count it was issued at. One that
comes a second time, whoever sends it, was copied by somebody: the session ends, for the thief and for the owner. The
count is compared and set in the store, so of two processes that see the same token one at most answers it.
"""

from datetime import datetime, timedelta

from aiwm.access.attempts import Attempts
from aiwm.access.passwords import Passwords
from aiwm.access.principal import Principal
from aiwm.access.records import SESSIONS, SessionRecord, UserRecord
from aiwm.access.service import Users
from aiwm.infra.store.port import Index, Query, Store, Where
from aiwm.infra.store.records import Records
from aiwm.infra.tokens import Claims, Tokens, Use
from aiwm.kit.clock import Clock
from aiwm.kit.ids import new_id
from aiwm.protocol.errors import NotFound, Unauthenticated
from aiwm.protocol.resources.access import TokenPair
from aiwm.protocol.states import PrincipalKind

ACCESS_SECONDS = 900
REFRESH_SECONDS = 30 * 86_400
MOST_SESSIONS = 1000
SESSION_CLAIM = "sessionId"
_TURN_CLAIM = "turn"


class Sessions:
    """Signing in, renewing and signing out. Answers of `login` never tell whether a username exists."""

    def __init__(
        self, store: Store, tokens: Tokens, users: Users, passwords: Passwords, attempts: Attempts, clock: Clock
    ) -> None:
        self._store, self._tokens, self._users, self._clock = store, tokens, users, clock
        self._passwords, self._attempts = passwords, attempts
        self._sessions = Records(store, SESSIONS, SessionRecord)

    async def prepare(self) -> None:
        """Makes the index, and forgets what has expired."""
        await self._store.ensure_index(Index(SESSIONS, ("userId", "expiresAt")))
        await self._store.ensure_index(Index(SESSIONS, ("expiresAt",)))
        await self._store.delete_range(SESSIONS, (Where("expiresAt", "lt", self._clock.now()),))

    async def login(self, username: str, password: str, address: str) -> TokenPair:
        """Tokens of a new session for the user who is at `address`.

        `Unauthenticated` (`CREDENTIALS_WRONG`) whatever is wrong; `TooMany` (`LOGIN_DELAYED`) before its time.
        """
        with self._attempts.attempt(username, address) as attempt:
            user = await self._users.by_username(username)
            right = await self._passwords.matches(password, user.password_hash if user else None)
            attempt.right = user is not None and right and user.usable
        if user is None or not attempt.right:
            raise Unauthenticated("cannot sign in: username or password is wrong", code="CREDENTIALS_WRONG")
        return await self._begin(user)

    async def refresh(self, token: str) -> TokenPair:
        """New tokens for a refresh token, which is used up by that; its session now lasts longer.

        `Unauthenticated`: `TOKEN_REUSED` for one that was used up before, which also ends its session.
        """
        claims = self._tokens.verify_refresh(token, PrincipalKind.USER)
        await self._user(claims.subject)
        session_id, turn = str(claims.values.get(SESSION_CLAIM)), claims.values.get(_TURN_CLAIM)
        expires_at = self._clock.now() + timedelta(seconds=REFRESH_SECONDS)

        def renewed(session: SessionRecord) -> SessionRecord:
            if session.user_id != claims.subject:
                raise _ended()
            if session.turn != turn:
                raise _reused()
            return session.model_copy(update={"expires_at": expires_at, "turn": session.turn + 1})

        try:
            session = await self._sessions.update(session_id, renewed)
        except NotFound as error:
            raise _ended() from error
        except Unauthenticated as error:
            if error.code == "TOKEN_REUSED":
                await self._sessions.delete(session_id)
            raise
        return self._pair(session)

    async def logout(self, token: str | None) -> None:
        """Ends the session of an access token: none of its tokens is good any more."""
        claims = self._tokens.verify(token, PrincipalKind.USER)
        await self._sessions.delete(str(claims.values.get(SESSION_CLAIM)))

    async def principal(self, claims: Claims) -> Principal:
        """Who a verified token's bearer is now; `Unauthenticated` (`TOKEN_INVALID`) when it signed out or is gone."""
        user = await self._user(claims.subject)
        session_id = claims.values.get(SESSION_CLAIM)
        if session_id is not None and await self._sessions.get(str(session_id)) is None:
            raise _ended()
        credential = "" if session_id is None else str(session_id)
        return Principal(claims.kind, user.id, user.username, user.org_id, frozenset(user.roles), credential=credential)

    async def _user(self, user_id: str) -> UserRecord:
        user = await self._users.users.get(user_id)
        if user is None or not user.usable:
            raise Unauthenticated("cannot accept the token: its user is gone or inactive", code="TOKEN_INVALID")
        return user

    async def _begin(self, user: UserRecord) -> TokenPair:
        """A new session. Of too many those end that were idle for longest: a script may sign in and never out."""
        now = self._clock.now()
        expires_at = now + timedelta(seconds=REFRESH_SECONDS)
        session = SessionRecord(id=new_id("session"), user_id=user.id, expires_at=expires_at, turn=1)
        await self._sessions.insert(session)
        theirs = Where("userId", "eq", user.id)
        expired = Query((theirs, Where("expiresAt", "lt", now)))
        beyond = Query((theirs,), sort=("-expiresAt",), skip=MOST_SESSIONS)
        for query in (expired, beyond):
            for old in await self._store.find(SESSIONS, query):
                await self._sessions.delete(str(old["id"]))
        return self._pair(session)

    def _pair(self, session: SessionRecord) -> TokenPair:
        access, _ = self._issue(session, "access", ACCESS_SECONDS)
        refresh, _ = self._issue(session, "refresh", REFRESH_SECONDS)
        return TokenPair(access_token=access, refresh_token=refresh, expires_in=ACCESS_SECONDS)

    def _issue(self, session: SessionRecord, use: Use, seconds: int) -> tuple[str, datetime]:
        values: dict[str, object] = {SESSION_CLAIM: session.id}
        if use == "refresh":
            values[_TURN_CLAIM] = session.turn
        return self._tokens.issue(PrincipalKind.USER, session.user_id, expires_in=seconds, values=values, use=use)


def _ended() -> Unauthenticated:
    return Unauthenticated("cannot accept the token: its session has ended; sign in again", code="TOKEN_INVALID")


def _reused() -> Unauthenticated:
    return Unauthenticated(
        "cannot accept the refresh token: it was used before, so somebody may have copied it; "
        "the session has ended, sign in again",
        code="TOKEN_REUSED",
    )
