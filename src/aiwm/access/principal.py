"""Who acts: the verified identity behind a request, as every rule sees it."""

from dataclasses import dataclass

from aiwm.protocol.states import PrincipalKind, Role

UNIVERSE_ROLES = frozenset({Role.UNIVERSE_OWNER, Role.UNIVERSE_EDITOR, Role.UNIVERSE_VIEWER})


@dataclass(frozen=True)
class Principal:
    """`org_id` is the organization it belongs to, None for none.

    `scopes` are those of the API key it came with, None for a whole sign-in. `credential` is the id of that key or of
    the session, empty for what has neither.
    """

    kind: PrincipalKind
    id: str
    username: str
    org_id: str | None
    roles: frozenset[Role]
    scopes: frozenset[str] | None = None
    credential: str = ""

    @property
    def is_universe(self) -> bool:
        """Whether its roles reach over all organizations."""
        return not self.roles.isdisjoint(UNIVERSE_ROLES)
