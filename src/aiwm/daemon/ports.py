"""Free ports for engines, found by binding right before an engine starts."""

import contextlib
import socket
from collections.abc import Callable

from aiwm.daemon.engines.base import Address, Ports

ChoosePorts = Callable[[Address], Ports]


def choose_ports(address: Address) -> Ports:
    """Three ports nobody listens on now; the engine may still lose the race and then gets others."""
    with contextlib.ExitStack() as held:
        return Ports(http=_bind(held, address.bind), grpc=_bind(held, "127.0.0.1"), metrics=_bind(held, "127.0.0.1"))


def _bind(held: contextlib.ExitStack, host: str) -> int:
    probe = held.enter_context(socket.socket())
    probe.bind((host, 0))
    port: int = probe.getsockname()[1]
    return port


def listen_address(advertised: str) -> Address:
    """Loopback, or where others reach this node: its advertised address if that is one of its own, else all."""
    if not advertised:
        return Address()
    with socket.socket() as probe:
        try:
            probe.bind((advertised, 0))
        except OSError:
            return Address(bind="0.0.0.0", local="127.0.0.1")  # noqa: S104 - the operator asked to be reachable
    return Address(bind=advertised, local=advertised)
