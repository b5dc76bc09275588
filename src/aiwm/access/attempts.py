"""How often somebody may try to sign in: growing delays after failures, and a bound for all tries together.

An address that failed too often waits, whichever account it tries. An account that others failed at too often makes
only those addresses wait that have failed themselves, so nobody can shut its owner out: from an address without
failures the right password always gets a try. Kept in memory, for each process by itself, bounded, gone with it.
"""

import ipaddress
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiwm.kit.clock import Clock
from aiwm.protocol.errors import TooMany

ADDRESS_FREE, ACCOUNT_FREE = 5, 5
LONGEST_DELAY = 300.0
FORGOTTEN_AFTER = 900.0
RATE, BURST = 5.0, 60.0
ADDRESS_RATE, ADDRESS_BURST = 2.5, 30.0
MOST_AT_ONCE = 16
MOST_KEPT = 10_000


@dataclass(slots=True)
class _Tries:
    """Failures of one address or at one account; `account` is the only one an address failed at, "" for several."""

    failures: int = 0
    running: int = 0
    last: float = 0.0
    account: str | None = None
    tokens: float = ADDRESS_BURST
    filled: float = 0.0


def delay_after(failures: int, free: int) -> float:
    """Seconds to wait after so many failures: none for the first, then 1, 2, 4 … up to five minutes."""
    return 0.0 if failures < free else min(LONGEST_DELAY, 2.0 ** min(failures - free, 16))


def network_of(address: str) -> str:
    """Who counts as one: an IPv4 address, or the /64 that a single IPv6 subscriber has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


class Attempts:
    """Asked before each password is looked at, or whatever else is shown for what `doing` says."""

    def __init__(self, clock: Clock, *, doing: str = "sign in", code: str = "LOGIN_DELAYED") -> None:
        self._clock, self._doing, self._code = clock, doing, code
        self._addresses: dict[str, _Tries] = {}
        self._accounts: dict[str, _Tries] = {}
        self._tokens, self._filled = BURST, clock.monotonic()

    @contextmanager
    def attempt(self, username: str, address: str) -> Iterator["Attempt"]:
        """One try, which says by `right` how it ended; `TooMany` with the seconds to wait."""
        now, name, network = self._clock.monotonic(), username.lower(), network_of(address)
        source, account = _kept(self._addresses, network, now), _kept(self._accounts, name, now)
        wait = _wait(source, ADDRESS_FREE, now)
        if source.failures or source.running:
            wait = max(wait, _wait(account, ACCOUNT_FREE, now))
        self._refuse(wait)
        self._take(source, now)
        source.running, account.running = source.running + 1, account.running + 1
        attempt = Attempt()
        try:
            yield attempt
        finally:
            source.running, account.running = source.running - 1, account.running - 1
        if attempt.right is True:
            account.failures = 0
            if source.account == name:
                source.failures, source.account = 0, None
        elif attempt.right is False:
            _failed(source, self._clock.monotonic())
            _failed(account, self._clock.monotonic())
            source.account = name if source.account in (None, name) else ""

    def _take(self, source: _Tries, now: float) -> None:
        """One try of what the address, and then everybody together, may have: one address cannot use up the whole."""
        source.tokens = min(ADDRESS_BURST, source.tokens + (now - source.filled) * ADDRESS_RATE)
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RATE)
        source.filled = self._filled = now
        self._refuse(max((1 - source.tokens) / ADDRESS_RATE, (1 - self._tokens) / RATE))
        source.tokens, self._tokens = source.tokens - 1, self._tokens - 1

    def _refuse(self, wait: float) -> None:
        if wait > 0:
            seconds = max(1, math.ceil(wait))
            raise TooMany(
                f"cannot {self._doing} now: too many tries; try again in {seconds} s",
                code=self._code,
                details={"retryAfter": seconds},
            )


@dataclass(slots=True)
class Attempt:
    """`right`: whether the password was; None for a try that was given up before that was known."""

    right: bool | None = None


def _wait(tries: _Tries, free: int, now: float) -> float:
    """Seconds until the next try. Until one is judged, nobody has many more than the free ones under way."""
    if tries.running >= (max(1, free - tries.failures) if tries.failures else MOST_AT_ONCE):
        return 1.0
    return tries.last + delay_after(tries.failures, free) - now if tries.failures else 0.0


def _failed(tries: _Tries, now: float) -> None:
    tries.failures, tries.last = tries.failures + 1, now


def _kept(kept: dict[str, _Tries], name: str, now: float) -> _Tries:
    """The entry of `name`, the youngest from now on; old failures are forgotten, the oldest entry gives way."""
    tries = kept.pop(name, None) or _Tries(filled=now)
    if not tries.running and now - tries.last > FORGOTTEN_AFTER:
        tries.failures, tries.account = 0, None
    while len(kept) >= MOST_KEPT:
        del kept[next(iter(kept))]
    kept[name] = tries
    return tries
