"""Which deployments must be looked at again: a wake-up with names and no data."""

from collections.abc import Iterable

from aiwm.kit.wake import Wake


class Dirty:
    """Marked by whoever changes something; taken by the reconciler."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._everything = True
        self._wake = Wake()
        self._wake.set()

    def mark(self, deployment_id: str) -> None:
        """Something about this deployment may have changed."""
        self._ids.add(deployment_id)
        self._wake.set()

    def mark_each(self, deployment_ids: Iterable[str]) -> None:
        """Something about these deployments may have changed."""
        self._ids.update(deployment_ids)
        self._wake.set()

    def mark_all(self) -> None:
        """Something about the fleet may have changed."""
        self._everything = True
        self._wake.set()

    async def take(self, timeout: float) -> set[str] | None:
        """The deployments marked since the last call; None, meaning all, when so marked or after `timeout` seconds."""
        woken = await self._wake.wait(timeout)
        ids, everything = self._ids, self._everything or not woken
        self._ids, self._everything = set(), False
        return None if everything else ids
