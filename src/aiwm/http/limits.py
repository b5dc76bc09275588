"""How many requests one caller may send: token buckets in memory, for each principal and for each address.

Inference and blobs are not counted: engines bound the first, and artifacts are large and come in many parts. Each
process counts for itself.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from aiwm.http.paths import takes_raw_body
from aiwm.http.problems import problem
from aiwm.kit.acting import Actor, current_act
from aiwm.protocol.errors import TooMany

BURST_SECONDS = 5
MAX_CALLERS = 10_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class Buckets:
    """`rate` requests a second for each key, and five seconds' worth at once; 0: no limit.

    The table is bounded: beyond 10,000 keys the one unheard of for longest starts anew.
    """

    def __init__(self, rate: int, now: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._now = rate, now
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str) -> None:
        """Counts one request; raises `TooMany` with the seconds after which there is room again."""
        if self._rate <= 0:
            return
        now, most = self._now(), float(self._rate * BURST_SECONDS)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(most, now)
            if len(self._buckets) > MAX_CALLERS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        bucket.tokens = min(most, bucket.tokens + (now - bucket.filled_at) * self._rate)
        bucket.filled_at = now
        if bucket.tokens < 1:
            wait = math.ceil((1 - bucket.tokens) / self._rate)
            raise TooMany(
                f"cannot answer: more than {self._rate} requests a second; try again in {wait} s",
                details={"retryAfter": wait},
            )
        bucket.tokens -= 1


class RateLimits:
    """The middleware: 429 with Retry-After for an address at once, for a principal as soon as it is known."""

    def __init__(self, app: ASGIApp, *, principals: Buckets, addresses: Buckets) -> None:
        self._app, self._principals, self._addresses = app, principals, addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        act = current_act()
        if scope["type"] == "http" and act is not None and not takes_raw_body(scope["path"]):
            act.identified = self._identified
            try:
                self._addresses.take(network_of(act.address))
            except TooMany as error:
                await problem(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _identified(self, actor: Actor) -> None:
        self._principals.take(actor.id)


def network_of(address: str) -> str:
    """What counts as one sender: an IPv4 address, or the /64 that one IPv6 customer has to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((int(parsed), 64), strict=False))
