"""Which deployments must be looked at again: a wake-up with names and no data.

Of several controllers one plans. What is marked at another is handed on to it.
"""

from collections.abc import Callable, Iterable

from aiwm.kit.wake import Wake

HandOn = Callable[[set[str] | None], None]
"""Takes deployments that the controller that plans must look at; None: all."""


class Dirty:
    """Marked by whoever changes something; taken by the reconciler where `plans()`, and handed on where not."""

    def __init__(self, plans: Callable[[], bool], hand_on: HandOn) -> None:
        self._plans, self._hand_on = plans, hand_on
        self._ids: set[str] = set()
        self._everything = True
        self._wake = Wake()
        self._wake.set()

    def mark(self, deployment_id: str) -> None:
        """Something about this deployment may have changed."""
        self._ids.add(deployment_id)
        self._wake.set()

    def mark_each(self, deployment_ids: Iterable[str]) -> None:
        """Something about these deployments may have changed; of none of them, nobody is woken."""
        if named := set(deployment_ids):
            self._ids |= named
            self._wake.set()

    def mark_all(self) -> None:
        """Something about the fleet may have changed."""
        self._everything = True
        self._wake.set()

    async def take(self, timeout: float) -> set[str] | None:
        """The deployments marked since the last call; None, meaning all, when so marked or after `timeout` seconds.

        Waits for as long as another controller plans.
        """
        while True:
            woken = await self._wake.wait(timeout if self._plans() else None)
            ids, everything = self._ids, self._everything or not woken
            self._ids, self._everything = set(), False
            if self._plans():
                return None if everything else ids
            if everything or ids:
                self._hand_on(None if everything else ids)
