"""Where a request came from. Only a proxy on this very machine is believed about whom it speaks for."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

UNKNOWN = "unknown"


def address_of(scope: Scope) -> str:
    """The address of a request's sender: the connection's peer, or whom a proxy on loopback names last."""
    peer = scope.get("client")
    forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
    return _address(peer[0] if peer else "", forwarded)


def address_in(environ: Mapping[str, Any]) -> str:
    """The same for the environment of a connecting socket."""
    scope = environ.get("asgi.scope")
    if isinstance(scope, dict):
        return address_of(scope)
    return _address(str(environ.get("REMOTE_ADDR", "")), str(environ.get("HTTP_X_FORWARDED_FOR", "")))


def _address(peer: str, forwarded: str) -> str:
    address = _parsed(peer)
    if address is None:
        return UNKNOWN
    named = _parsed(forwarded.rpartition(",")[2].strip()) if address.is_loopback else None
    return str(named or address)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address
