"""Which engine answers for a deployment right now: looked up in memory on every request."""

from dataclasses import dataclass

from aiwm.access import policy, scopes
from aiwm.access.principal import Principal
from aiwm.deployments.book import Book
from aiwm.deployments.records import READY, Wish
from aiwm.nodes.presence import Presence
from aiwm.protocol.errors import NotFound, Unavailable
from aiwm.protocol.resources.deployments import served_name


@dataclass(frozen=True, slots=True)
class Target:
    """One engine: its base URL as the gateway dials it."""

    replica_id: str
    url: str


class Directory:
    """Deployments by id or name, and their reachable replicas."""

    def __init__(self, book: Book, presence: Presence) -> None:
        self._book, self._presence = book, presence

    def by_id(self, who: Principal, deployment_id: str) -> Wish:
        """The deployment of that id, if the caller may see it."""
        wish = self._book.wish(deployment_id)
        if wish is None or not _usable(who, wish):
            raise NotFound(
                f"cannot find deployment {deployment_id}: there is none of that id", code="DEPLOYMENT_NOT_FOUND"
            )
        return wish

    def by_name(self, who: Principal, path: str) -> tuple[Wish, str]:
        """The deployment that `name/rest` or `orgId/name/rest` names, and the rest.

        The caller's own organization is looked in first.
        """
        first, _, rest = path.partition("/")
        own = self._book.named(who.org_id, first)
        if own is not None and _usable(who, own):
            return own, rest
        second, _, further = rest.partition("/")
        other = self._book.named(first, second)
        if other is not None and _usable(who, other):
            return other, further
        raise NotFound(
            f"cannot find model {first!r}: no deployment of that name is yours to use", code="MODEL_NOT_FOUND"
        )

    def targets(self, wish: Wish) -> list[Target]:
        """The ready replicas that can be reached; `Unavailable` NO_REPLICA with the reason when there are none."""
        found = self._reachable(wish)
        if found:
            return found
        state = self._book.state(wish.id)
        reason = state.status_reason or f"it is {state.status.value}"
        ready = [replica for replica in state.replicas if replica.state in READY]
        if ready and any(self._presence.of(replica.node_id) for replica in ready):
            reason = "its node gave no address to dial; set AIWM_ADVERTISE_HOST there"
        elif ready:
            reason = "its node is not connected; it is looked for"
        raise Unavailable(f"cannot serve {wish.name!r}: {reason}", code="NO_REPLICA")

    def urls(self) -> set[str]:
        """Where all ready replicas of all deployments are."""
        return {target.url for wish in self._book for target in self._reachable(wish)}

    def _reachable(self, wish: Wish) -> list[Target]:
        return [
            Target(replica.replica_id, f"http://{host}:{replica.container_port}")
            for replica in self._book.state(wish.id).replicas
            if replica.state in READY
            and replica.container_port
            and (host := self._presence.address(replica.node_id)) is not None
        ]

    @staticmethod
    def engine_name(wish: Wish) -> str:
        """The name under which the engine serves the deployment."""
        return served_name(wish.name)


def _usable(who: Principal, wish: Wish) -> bool:
    """Whether the caller sees it, and an API key's scopes reach to it."""
    return policy.visible(who, wish.owner.org_id) and scopes.allow_deployment(who, wish.owner.org_id, wish.name)
