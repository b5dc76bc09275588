"""The one guard for every outgoing URL that a user can name: a service must not be talked into asking its own network.

An address is judged after the name was looked up, and the connection goes to the very address that was judged, so a
name that answers differently the second time gains nothing. Redirects are followed by us, each judged like the first.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aiwm.kit.settings import SettingsError
from aiwm.protocol.errors import BadUpstream, Invalid, TimedOut, Unavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LookUp = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_REDIRECTS = 5
MAX_URL = 2048
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})
_CONNECT_SECONDS = 10.0
# Not private by the registry, and yet other machines of ours or none at all: shared space, NAT64, 6to4, Teredo.
_NEVER = tuple(
    ipaddress.ip_network(each)
    for each in ("100.64.0.0/10", "192.88.99.0/24", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)


def networks(text: str) -> tuple[Network, ...]:
    """`AIWM_ALLOWED_ADDRESSES`: CIDRs with commas between. Raises `SettingsError` naming the one that is none."""
    found: list[Network] = []
    for each in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(each))
        except ValueError as error:
            raise SettingsError(f"AIWM_ALLOWED_ADDRESSES must hold networks such as 10.0.0.0/8: {error}") from error
    return tuple(found)


async def look_up(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system's resolver gives them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]).partition("%")[0] for each in found]


class UrlGuard:
    """Judges URLs and addresses. `allowed` are networks that URLs may name although they are not public."""

    def __init__(self, allowed: Sequence[Network] = (), look_up: LookUp = look_up) -> None:
        self._allowed, self._look_up = tuple(allowed), look_up

    def check(self, url: str) -> URL:
        """`url`, read; `Invalid` (`URL_REFUSED`) for what can be told without looking a name up."""
        if len(url) > MAX_URL or not url.isascii() or any(char <= " " or char in "\\\x7f" for char in url):
            raise _refused("it holds characters that no URL holds, or too many")
        try:
            parsed = URL(url)
            host, port = parsed.host, parsed.port
        except ValueError as error:
            raise _refused("it cannot be read as a URL") from error
        if parsed.scheme not in ("http", "https") or not host or not port:
            raise _refused("it must begin with http:// or https:// and name a host")
        if not _HOST.fullmatch(host) and address_in(host) is None:
            raise _refused("its host holds characters that no name holds")
        if "@" in re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0]:
            raise _refused("it carries credentials; give them in a field of their own")
        literal = address_in(host)
        if literal is not None and not self.permits(literal):
            raise _refused("it names an address that is not public; AIWM_ALLOWED_ADDRESSES can allow its network")
        return parsed

    def permits(self, address: Address) -> bool:
        """Whether connections may go there."""
        address = _plain(address)
        if any(address in network for network in self._allowed):
            return True
        special = address.is_multicast or address.is_reserved or address.is_unspecified
        return address.is_global and not special and not any(address in network for network in _NEVER)

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Where a name leads; `Invalid` (`URL_REFUSED`) when any of it is not permitted, `Unavailable` when nowhere."""
        literal = address_in(host)
        if literal is not None:
            found = [literal]
        else:
            try:
                found = [_plain(ipaddress.ip_address(each)) for each in await self._look_up(host, port)]
            except (OSError, UnicodeError, ValueError) as error:
                raise Unavailable(f"cannot reach {host}: its name cannot be looked up", code="HOST_UNKNOWN") from error
        if not found:
            raise Unavailable(f"cannot reach {host}: its name has no address", code="HOST_UNKNOWN")
        if not all(map(self.permits, found)):
            raise _refused("its name leads to an address that is not public; AIWM_ALLOWED_ADDRESSES can allow it")
        return found


class _Pinned(AbstractResolver):
    """Hands the connector the addresses that were judged, and no others."""

    def __init__(self, guard: UrlGuard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._guard.addresses(host, port)
        return [
            ResolveResult(
                hostname=host,
                host=str(each),
                port=port,
                family=socket.AF_INET6 if each.version == 6 else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for each in found
            if family in (socket.AF_UNSPEC, socket.AF_INET6 if each.version == 6 else socket.AF_INET)
        ]

    async def close(self) -> None:
        """It keeps nothing."""


class GuardedClient:
    """An HTTP client for URLs of users; an async context. No proxy, no cookies, no credentials of its own."""

    def __init__(self, guard: UrlGuard) -> None:
        self._guard = guard
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "GuardedClient":
        connector = aiohttp.TCPConnector(resolver=_Pinned(self._guard), use_dns_cache=False, family=socket.AF_UNSPEC)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer at the end of at most five redirects.

        Raises `Invalid` (`URL_REFUSED`), `Unavailable` when it cannot be reached, `TimedOut`, and `BadUpstream` for
        too many redirects. Credentials in `headers` do not go along to another origin.
        """
        if self._session is None:
            raise RuntimeError("the client is not open: use it inside `async with`")
        target, sent = self._guard.check(url), dict(headers or {})
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._once(method, target, sent, options)
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or location is None:
                try:
                    yield answer
                finally:
                    answer.close()
                return
            answer.close()
            following = self._guard.check(_joined(target, location))
            if following.origin() != target.origin():
                sent = {name: value for name, value in sent.items() if name.lower() not in _SECRET_HEADERS}
            if answer.status == 303 or (answer.status in (301, 302) and method == "POST"):
                method, options = "GET", {}
            target = following
        raise BadUpstream(f"cannot get an answer: more than {MAX_REDIRECTS} redirects", code="TOO_MANY_REDIRECTS")

    async def _once(
        self, method: str, url: URL, headers: Mapping[str, str], options: Mapping[str, Any]
    ) -> aiohttp.ClientResponse:
        assert self._session is not None  # noqa: S101 - checked by its caller
        # A literal address goes past the resolver: what was written is judged here, what was looked up there.
        await self._guard.addresses(str(url.host), int(url.port or 0))
        try:
            return await self._session.request(method, url, headers=headers, allow_redirects=False, **options)
        except TimeoutError as error:
            raise TimedOut(f"cannot reach {url.host}: it did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"cannot reach {url.host}: {type(error).__name__}", code="HOST_UNREACHABLE") from error


def address_in(host: str) -> Address | None:
    """The address that `host` is written as, in any form that resolvers read: `2130706433`, `0x7f.1`, `0177.1`."""
    bare = host.strip("[]").rstrip(".").partition("%")[0]
    try:
        return _plain(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(bare))
    except (OSError, ValueError):
        return None


def _plain(address: Address) -> Address:
    """The IPv4 address inside a mapped IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if int(address) >> 32 == 0 and int(address) > 1:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _joined(base: URL, location: str) -> str:
    try:
        return str(base.join(URL(location)))
    except ValueError as error:
        raise _refused("it redirects to what is no URL") from error


def _refused(cause: str) -> Invalid:
    return Invalid(f"cannot use this URL: {cause}", code="URL_REFUSED")
