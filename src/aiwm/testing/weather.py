"""What happens to simulated links: they are cut, kept down, and slowed, beneath daemons that know nothing of it.

It is done where sockets are made, in the event loop, so that the link's own code runs as it is, TLS included. Only
what runs under `Weather.over` is concerned: the simulator's own requests go through undisturbed.
"""

import asyncio
import contextlib
import errno
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

_PLACE: "ContextVar[_Place | None]" = ContextVar("place", default=None)


class Weather:
    """Of all links of one fleet. `latency` in seconds is added to each direction of links made from then on."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self.down = False
        self._places: dict[str, _Place] = {}

    @contextlib.contextmanager
    def over(self, name: str) -> Iterator[None]:
        """What connects within it, tasks begun there included, has the links of `name`."""
        place = self._places.setdefault(name, _Place(self))
        token = _PLACE.set(place)
        try:
            yield
        finally:
            _PLACE.reset(token)

    def cut(self) -> None:
        """Ends every link at once; none can be made until `heal`."""
        self.down = True
        for place in self._places.values():
            place.drop()

    def heal(self) -> None:
        """Links can be made again."""
        self.down = False

    def flap(self, name: str) -> None:
        """Ends the links of one node; it may make new ones at once."""
        if name in self._places:
            self._places[name].drop()


class WeatherLoop(asyncio.SelectorEventLoop):
    """An event loop whose connections obey the weather of where they are made."""

    async def sock_connect(self, sock: Any, address: Any) -> None:
        place = _PLACE.get()
        if place is not None and place.weather.down:
            raise OSError(errno.ENETUNREACH, "the simulated link is cut")
        await super().sock_connect(sock, address)

    async def create_connection(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        place = _PLACE.get()
        if place is None:
            return await super().create_connection(protocol_factory, *args, **options)
        latency = place.weather.latency
        if not latency:
            transport, protocol = await super().create_connection(protocol_factory, *args, **options)
            place.links.add(transport)
            return transport, protocol
        slow = _SlowProtocol(protocol_factory(), latency)
        transport, _ = await super().create_connection(lambda: slow, *args, **options)
        place.links.add(transport)
        return slow.transport, slow.inner


class _Place:
    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.links: WeakSet[Any] = WeakSet()

    def drop(self) -> None:
        for link in list(self.links):
            link.abort()


class _Delay:
    """Calls `then` with what it was given, `seconds` later and in order."""

    def __init__(self, seconds: float, then: Callable[[bytes], None]) -> None:
        self._seconds, self._then = seconds, then
        self._waiting: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()

    def put(self, what: bytes) -> None:
        # Timers of one due time come in no order, what they take does.
        self._waiting.append(what)
        self._loop.call_later(self._seconds, self._next)

    def rush(self) -> None:
        """Everything now."""
        while self._waiting:
            self._next()

    def forget(self) -> None:
        """Nothing any more."""
        self._waiting.clear()

    def _next(self) -> None:
        if self._waiting:
            self._then(self._waiting.popleft())


class _SlowTransport:
    """A transport whose writes leave later; all else is the transport's own."""

    def __init__(self, inner: asyncio.Transport, latency: float) -> None:
        self._inner = inner
        self._delay = _Delay(latency, inner.write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes) -> None:
        self._delay.put(bytes(data))

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self._delay.rush()
        self._inner.close()


class _SlowProtocol(asyncio.Protocol):
    """Stands before a protocol, which gets what arrives later; an end comes at once, as a cut does."""

    def __init__(self, inner: Any, latency: float) -> None:
        self.inner, self._latency = inner, latency
        self.transport: Any = None
        self._delay = _Delay(latency, inner.data_received)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = _SlowTransport(transport, self._latency)
        self.inner.connection_made(self.transport)

    def data_received(self, data: bytes) -> None:
        self._delay.put(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._delay.forget()
        self.inner.connection_lost(exc)

    def eof_received(self) -> Any:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
