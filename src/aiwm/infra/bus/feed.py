"""Which records other processes have changed: names without data, on which whoever remembers them reads them again."""

import logging
from collections.abc import Awaitable, Callable

from aiwm.infra.bus.circle import Circle, Part
from aiwm.infra.bus.port import Message
from aiwm.kit.clock import Clock
from aiwm.kit.wake import Wake
from aiwm.protocol.errors import AiwmError

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_POLL_SECONDS = 10.0
_AT_ONCE = 1000

Follow = Callable[[frozenset[str] | None], Awaitable[None]]
"""Takes the ids of what changed; None: anything may have."""


class Feed(Part):
    """`changed(kind, id)` here calls what is registered by `on(kind, …)` at every other member, within milliseconds.

    What was missed is made up for by None; cut off from the others, that comes every ten seconds.
    """

    def __init__(self, circle: Circle, clock: Clock) -> None:
        self._circle, self._clock = circle, clock
        self._changed: dict[str, set[str] | None] = {}
        self._follow: dict[str, Follow] = {}
        self._heard: dict[str, set[str] | None] = {}
        self._wake = Wake()
        circle.add("changes", self)

    def changed(self, kind: str, record_id: str | None) -> None:
        """Tells the others, soon; None: anything of this kind may have changed."""
        _note(self._changed, kind, None if record_id is None else {record_id})
        self._circle.wake()

    def on(self, kind: str, follow: Follow) -> None:
        """Has `follow` called with what others changed; again, when it raised what may pass."""
        self._follow[kind] = follow

    async def run(self) -> None:
        """Follows until cancelled, the kinds in the order in which they were registered."""
        away = False
        while True:
            if not await self._wake.wait(_POLL_SECONDS if self._circle.cut_off else None):
                self._everything()
            try:
                for kind in [kind for kind in self._follow if kind in self._heard]:
                    await self._read_again(kind)
                away = False
            except AiwmError as error:
                if not error.retryable:
                    raise
                if not away:
                    log.warning("what other controllers changed is read later: %s", error.message)
                away = True
                await self._clock.sleep(_RETRY_SECONDS)
                self._wake.set()

    async def _read_again(self, kind: str) -> None:
        ids = self._heard.pop(kind)
        try:
            await self._follow[kind](None if ids is None else frozenset(ids))
        except BaseException:
            _note(self._heard, kind, ids)
            raise

    def news(self) -> list[Message]:
        changed, self._changed = self._changed, {}
        told: list[Message] = []
        for kind, ids in changed.items():
            if ids is None:
                told.append({"kind": kind, "ids": None})
                continue
            ordered = sorted(ids)
            told += [{"kind": kind, "ids": ordered[n : n + _AT_ONCE]} for n in range(0, len(ordered), _AT_ONCE)]
        return told

    def heard(self, member: str, message: Message) -> None:  # noqa: ARG002 - whoever changed it
        kind, ids = str(message.get("kind")), message.get("ids")
        if kind in self._follow:
            _note(self._heard, kind, {str(each) for each in ids} if isinstance(ids, list) else None)
            self._wake.set()

    def pictured(self, member: str, messages: list[Message]) -> None:  # noqa: ARG002 - no record is named in it
        self._everything()

    def parted(self, member: str) -> None:  # noqa: ARG002 - what it wrote last may have gone untold
        self._everything()

    def joined(self) -> None:
        self._everything()

    def _everything(self) -> None:
        self._heard = dict.fromkeys(self._follow)
        self._wake.set()


def _note(noted: dict[str, set[str] | None], kind: str, ids: set[str] | None) -> None:
    """Adds to what is noted of a kind; None holds all."""
    known = noted.get(kind, set())
    noted[kind] = None if ids is None or known is None else known | ids
