"""Passwords, hashed with argon2id in a thread of their own: each hash costs 19 MiB and some 30 ms of a core.

One thread, as on a machine of two cores a second one takes the last core from everybody else. It has the priority of
all others: a thread that yields would keep the interpreter's lock while it waits for its turn, and stop the process.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from aiwm.protocol.errors import TooMany

_THREADS = 1
_DECOY = "$argon2id$v=19$m=19456,t=2,p=1$J08jWe1//CL9LH0lK+cKKw$xIMXTCubRxW6TRU3SktKv5GghTGWN5mqFWbtICGg0dU"
_MAX_WAITING = 64

T = TypeVar("T")


class Passwords:
    """Hashes and checks. `TooMany` when more than 64 are waiting, so that guessing cannot pile up work."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(memory_cost=19 * 1024, time_cost=2, parallelism=1)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="passwords")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """A salted hash to keep."""
        return await self._in_thread(lambda: self._hasher.hash(password))

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Whether `password` is the one; without a hash the answer is no, after the same work."""
        return await self._in_thread(lambda: self._verify(hashed or _DECOY, password)) and bool(hashed)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._waiting >= _MAX_WAITING:
            raise TooMany("cannot check passwords: too many sign in at once; try again in a few seconds")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
