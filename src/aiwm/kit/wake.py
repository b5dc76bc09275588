"""A wake-up that carries no data: whoever is woken looks for itself."""

import asyncio


class Wake:
    """A flag many may raise and one waits for; raising it twice wakes once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wakes the waiter, now or at its next wait."""
        self._event.set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits for the flag and lowers it; False when `timeout` seconds went by first."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
