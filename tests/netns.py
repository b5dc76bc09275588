"""Networks of the test's own: namespaces, cables between them, routers that translate addresses, and their cutting.

A namespace is a machine as far as the network goes. All of it is gone when `network` ends, whatever happened in it.
"""

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

_NAT = """
table ip nat {{
    chain out {{ type nat hook postrouting priority 100; oifname "{outside}" masquerade; }}
}}
table inet wall {{
    chain through {{ type filter hook forward priority 0; }}
}}
"""


def missing() -> str | None:
    """What keeps this machine from having such networks, and what to do; None when nothing does."""
    if os.geteuid() != 0:
        return "no network namespaces: run the tests as root"
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(program) is None:
            return f"no {program}: apt-get install {package}"
    return None


def needed() -> None:
    """Skips the test where such networks cannot be had."""
    if (reason := missing()) is not None:
        pytest.skip(reason)


def run(*command: str, given: str | None = None) -> str:
    """The command's output; an error with what it said when it fails."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Machine:
    """One namespace; `exec` is what runs a command in it."""

    namespace: str

    @property
    def exec(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace)

    def ip(self, *words: str) -> str:
        return run("ip", "-n", self.namespace, *words)

    def run(self, *command: str, given: str | None = None) -> str:
        return run(*self.exec, *command, given=given)

    def down(self, device: str) -> None:
        """Pulls the cable: routes over it are gone with it."""
        self.ip("link", "set", device, "down")

    def up(self, device: str, *routes: Sequence[str]) -> None:
        """Plugs it in again, and sets the routes that went with it."""
        self.ip("link", "set", device, "up")
        for route in routes:
            self.ip("route", "replace", *route)

    def pids(self) -> list[int]:
        """What runs in it."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.namespace).split()]


@dataclass(frozen=True)
class Router(Machine):
    """Lets machines behind `inside` out through `outside`, all under the one address it has there."""

    outside: str

    def open(self) -> None:
        """Starts to forward and to translate."""
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.run("nft", "-f", "-", given=_NAT.format(outside=self.outside))

    def renumber(self, old: str, new: str, gateway: str) -> None:
        """What a provider does at night: the line gets another address, and every translation is forgotten.

        The kernel drops a masqueraded connection's entry with the address that it was masqueraded as.
        """
        self.ip("address", "del", old, "dev", self.outside)
        self.ip("address", "add", new, "dev", self.outside)
        self.ip("route", "replace", "default", "via", gateway)

    def swallow(self) -> None:
        """From now on it forwards nothing and says nothing: links through it are half-open."""
        self.run("nft", "add", "rule", "inet", "wall", "through", "drop")

    def spit_out(self) -> None:
        """Forwards again."""
        self.run("nft", "flush", "chain", "inet", "wall", "through")


@dataclass
class Network:
    """Machines and the cables between them; `prefix` keeps its names apart from any other's on this machine."""

    prefix: str
    machines: list[Machine] = field(default_factory=list)

    def machine(self, name: str) -> Machine:
        machine = Machine(f"{self.prefix}{name}")
        self._add(machine)
        return machine

    def router(self, name: str, outside: str) -> Router:
        router = Router(f"{self.prefix}{name}", outside)
        self._add(router)
        return router

    def _add(self, machine: Machine) -> None:
        run("ip", "netns", "add", machine.namespace)
        self.machines.append(machine)
        machine.ip("link", "set", "lo", "up")

    def cable(self, one: Machine, device: str, other: Machine, far: str, addresses: tuple[str, str]) -> None:
        """Joins two machines; each end has its name and address there."""
        ends = (f"{self.prefix}a", f"{self.prefix}b")
        run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for end, machine, name, address in zip(ends, (one, other), (device, far), addresses, strict=True):
            run("ip", "link", "set", end, "netns", machine.namespace, "name", name)
            machine.ip("address", "add", address, "dev", name)
            machine.ip("link", "set", name, "up")

    def desk(self, machine: Machine) -> str:
        """A cable from here to the machine; the machine's address on it. It goes with the machine."""
        here, there = f"{self.prefix}d", "desk"
        net = f"10.{secrets.randbelow(55) + 200}.{secrets.randbelow(256)}"
        run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", machine.namespace)
        run("ip", "address", "add", f"{net}.1/30", "dev", here)
        run("ip", "link", "set", here, "up")
        machine.ip("address", "add", f"{net}.2/30", "dev", there)
        machine.ip("link", "set", there, "up")
        return f"{net}.2"

    def remove(self) -> None:
        """Ends what still runs in it and takes everything down; what is gone already is no fault."""
        for machine in self.machines:
            with suppress(RuntimeError):
                for pid in machine.pids():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                run("ip", "netns", "del", machine.namespace)
        self.machines.clear()


@contextmanager
def network() -> Iterator[Network]:
    """An empty network, until the end."""
    found = Network(f"aiwm{secrets.token_hex(3)}")
    try:
        yield found
    finally:
        found.remove()
