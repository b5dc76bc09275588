"""Services for tests: real ones, in this process, on sockets of their own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from aiwm.access.build import Access, compose_access
from aiwm.access.first_run import first_run
from aiwm.access.guard import Guard
from aiwm.access.passwords import Passwords
from aiwm.access.records import UserRecord
from aiwm.access.service import Users
from aiwm.http.serve import bind, serve
from aiwm.infra.jwks import ExternalTokens
from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Store
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import Clock, SystemClock
from aiwm.kit.ids import new_id
from aiwm.kit.settings import Settings
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import PrincipalKind, Role

PASSWORD = "correct horse battery"
KEYS = (b"k" * 32,)


class SetClock(SystemClock):
    """Wall time that tests move; waiting is real."""

    def __init__(self, now: datetime | None = None) -> None:
        self.moment = now or datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def forward(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Site:
    """A store with its first user, and what signs users in."""

    store: Store
    clock: Clock
    tokens: Tokens
    passwords: Passwords
    users: Users
    access: Access
    guard: Guard
    settings: Settings

    async def user(self, name: str, *roles: Role, org_id: str | None = None) -> tuple[str, str]:
        """A new user's id and access token."""
        now = self.clock.now()
        record = UserRecord(
            id=new_id("user"),
            owner=Owner(org_id=org_id),
            created_at=now,
            updated_at=now,
            unique_key=name,
            username=name,
            password_hash="",
            org_id=org_id,
            roles=list(roles),
        )
        await self.users.users.insert(record)
        return record.id, self.token(record.id)

    def token(self, user_id: str) -> str:
        return self.tokens.issue(PrincipalKind.USER, user_id, expires_in=3600)[0]


@asynccontextmanager
async def site(clock: Clock | None = None, external: ExternalTokens | None = None) -> AsyncIterator[Site]:
    clock = clock or SystemClock()
    store = await open_store("sqlite:///:memory:")
    tokens = Tokens(KEYS, clock)
    access = compose_access(store, tokens, clock, external)
    store, passwords, users = access.store, access.passwords, access.users
    settings = Settings(admin_password=PASSWORD)
    try:
        await access.prepare()
        await first_run(users, passwords, settings, clock)
        yield Site(store, clock, tokens, passwords, users, access, access.guard, settings)
    finally:
        passwords.close()
        await store.close()


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """Requests straight into an ASGI application."""
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as http:
        yield http


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The application on a real socket; its URL."""
    listener = bind("127.0.0.1", 0)
    port, stop = listener.getsockname()[1], asyncio.Event()
    serving = asyncio.create_task(serve(app, host="127.0.0.1", port=port, stop=stop, listener=listener))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        await serving


def bearer(token: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **headers}


async def until(fact: Callable[[], Awaitable[bool] | bool], what: str, seconds: float = 5.0) -> None:
    """Returns once `fact` holds; fails naming `what` when it does not within `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        outcome = fact()
        if outcome if isinstance(outcome, bool) else await outcome:
            return
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)
