"""The demo's witness: shows live events as they arrive, and fails the demo when one that must come does not."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiwm.protocol.errors import AiwmError, TimedOut
from aiwm.protocol.notifications import Delivery
from aiwm.sdk.live import Live

PATIENCE_SECONDS = 15.0


class Witness:
    """Listens from `async with` on; `expect` waits for an event about one resource."""

    def __init__(self, live: Live, tell: Callable[[Delivery], None]) -> None:
        self._live, self._tell = live, tell
        self._seen: list[Delivery] = []
        self._news = asyncio.Condition()
        self._failure: AiwmError | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._live.__aenter__()
        self._listening = asyncio.create_task(self._listen(), name="demo-witness")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
        await self._live.__aexit__(kind, error, trace)

    async def expect(self, name: str, **about: str) -> Delivery:
        """The event `name` whose data has what `about` says; `TimedOut` when it does not come."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._news:
                while (found := self._find(name, about)) is None:
                    if self._failure is not None:
                        raise self._failure
                    await self._news.wait()
                return found
        except TimeoutError:
            sentence = f"cannot go on: the live event {name} did not arrive within {PATIENCE_SECONDS:g} s"
            raise TimedOut(sentence, code="EVENT_MISSING") from None

    def _find(self, name: str, about: dict[str, str]) -> Delivery | None:
        for delivery in self._seen:
            if delivery.name == name and about.items() <= (delivery.data or {}).items():
                return delivery
        return None

    async def _listen(self) -> None:
        try:
            async for _event, delivery in self._live:
                self._tell(delivery)
                await self._note(delivery)
        except AiwmError as error:
            self._failure = error
            await self._note(None)

    async def _note(self, delivery: Delivery | None) -> None:
        async with self._news:
            if delivery is not None:
                self._seen.append(delivery)
            self._news.notify_all()
