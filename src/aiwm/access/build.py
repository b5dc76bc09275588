"""Everything that decides who is who, wired once for every process that has doors."""

from dataclasses import dataclass

from aiwm.access.api_keys import ApiKeys
from aiwm.access.attempts import Attempts
from aiwm.access.external import ExternalUsers
from aiwm.access.guard import Guard
from aiwm.access.identities import Identities
from aiwm.access.passwords import Passwords
from aiwm.access.service import Users
from aiwm.access.sessions import Sessions
from aiwm.access.verified import Verified
from aiwm.infra.jwks import ExternalTokens
from aiwm.infra.store.noticing import NoticingStore
from aiwm.infra.store.port import Store
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import Clock


@dataclass(frozen=True, slots=True)
class Access:
    """`store` is the one to write users, sessions and keys through: the guard then feels a change at once."""

    store: Store
    passwords: Passwords
    users: Users
    sessions: Sessions
    api_keys: ApiKeys
    guard: Guard

    async def prepare(self) -> None:
        """Makes the indexes."""
        for part in (self.users, self.sessions, self.api_keys):
            await part.prepare()


def compose_access(store: Store, tokens: Tokens, clock: Clock, external: ExternalTokens | None = None) -> Access:
    """Wires it; the caller closes `passwords`."""
    verified = Verified(clock)
    noticing = NoticingStore(store, verified.noticed)
    passwords, users = Passwords(), Users(noticing)
    sessions = Sessions(noticing, tokens, users, passwords, Attempts(clock), clock)
    api_keys = ApiKeys(noticing, users, clock)
    outside = None if external is None else ExternalUsers(external, users, clock)
    guard = Guard(Identities(tokens, sessions, api_keys, outside, verified))
    return Access(noticing, passwords, users, sessions, api_keys, guard)
