"""What one telemetry message costs the controller, beside npm's socket.io server: processor time, clients being equal.

500 connections to each, `telemetry.metrics` of 8 GPUs, each connection sends the next when the last was acknowledged.
Both servers have core 0, the client core 1; they are driven by turns in one run. Run it with
`python bench/ingest.py [rounds]`; it prints a table. Needs Node.js and npm for the peer.
"""

import asyncio
import contextlib
import json
import os
import random
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiwm.kit.clock import SystemClock
from aiwm.kit.open_files import raise_open_files
from aiwm.protocol import node_channel as channel
from aiwm.sdk.client import Client
from aiwm.testing import enrolment
from aiwm.testing.installation import cpu_seconds, open_installation
from aiwm.testing.simulated import SimulatedTelemetry

CONNECTIONS = 500
WARM_SECONDS, ROUND_SECONDS = 2.0, 4.0
SERVER_CORE, CLIENT_CORE = 0, 1
NPM = Path(__file__).resolve().parents[1] / ".cache" / "npm-socket.io"
_MASK, _PING = b"\0\0\0\0", 0x9
_UPGRADE = (
    "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(text: str) -> bytes:
    """A client's WebSocket text frame, masked with zeros."""
    payload = text.encode()
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else bytes((0x81, 0xFE)) + size.to_bytes(2, "big")
    return head + _MASK + payload


def event(type_: str, data: channel.Metrics | channel.NodeRegister, ack: int) -> bytes:
    """A message that asks for acknowledgement `ack`."""
    body = channel.envelope(type_, data, now=SystemClock().now())
    return frame(f"42{channel.NAMESPACE},{ack}{json.dumps([type_, body], separators=(',', ':'))}")


_MACHINE = SimulatedTelemetry("bench", 8, random.Random(1))
PONG = frame("3")
REGISTER = event(channel.NODE_REGISTER, _MACHINE.facts(), 0)
METRICS = event(channel.METRICS, _MACHINE.metrics(), 1)
ACKNOWLEDGED = {f"43{channel.NAMESPACE},{number}".encode(): number for number in (0, 1)}


class Connection:
    """One node, as bytes."""

    def __init__(self, port: int, token: str) -> None:
        self.token, self.acknowledged, self.ready, self.driven = token, 0, False, False
        self._buffer, self._upgraded = b"", False
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(_UPGRADE.format(port=port).encode())

    def readable(self) -> None:
        got = self.socket.recv(65_536)
        assert got, "the server closed a connection"
        self._buffer += got
        if not self._upgraded:
            head, sign, rest = self._buffer.partition(b"\r\n\r\n")
            if not sign:
                return
            assert b" 101 " in head.split(b"\r\n")[0], head
            self._upgraded, self._buffer = True, rest
        while (packet := self._packet()) is not None:
            self._arrived(packet)

    def _packet(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(buffer[2:4], "big"), 4
        if len(buffer) < start + size:
            return None
        self._buffer, payload = buffer[start + size :], buffer[start : start + size]
        if buffer[0] & 0x0F != _PING:
            return payload
        # A server looks after its sockets below Socket.IO too, after 20 s.
        self.socket.sendall(bytes((0x8A, 0x80 | size)) + _MASK + payload)
        return self._packet()

    def _arrived(self, packet: bytes) -> None:
        if packet[:2] == b"43":
            if ACKNOWLEDGED[packet.partition(b"[")[0]] == 0:
                self.ready = True
                return
            self.acknowledged += 1
            if self.driven:
                self.socket.sendall(METRICS)
        elif packet == b"2":
            self.socket.sendall(PONG)
        elif packet[:1] == b"0":
            self.socket.sendall(frame(f"40{channel.NAMESPACE},{json.dumps({'token': self.token})}"))
        elif packet[:2] == b"40":
            self.socket.sendall(REGISTER)
        else:
            assert packet[:2] == b"42", packet


@dataclass
class Server:
    """One of the two, and what was measured of it: microseconds of processor time a message, messages a second."""

    name: str
    pid: int
    connections: list[Connection]
    cost: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)

    def acknowledged(self) -> int:
        return sum(each.acknowledged for each in self.connections)


class Driver:
    """One epoll for the connections to both servers: the one at rest has its pings answered."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()

    def add(self, connection: Connection) -> None:
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def pump(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                key.data.readable()

    def connect(self, port: int, tokens: Sequence[str]) -> list[Connection]:
        """Registered connections; few at once."""
        made: list[Connection] = []
        for token in tokens:
            made.append(Connection(port, token))
            self.add(made[-1])
            self.pump(0.002)
        deadline = time.monotonic() + 60
        while not all(each.ready for each in made):
            assert time.monotonic() < deadline, "not every connection was accepted"
            self.pump(0.05)
        return made

    def round(self, server: Server, seconds: float) -> tuple[float, float]:
        """Microseconds of processor time a message, and messages a second."""
        for each in server.connections:
            each.driven = True
            each.socket.sendall(METRICS)
        self.pump(WARM_SECONDS)
        cpu, count, began = cpu_seconds(server.pid), server.acknowledged(), time.monotonic()
        self.pump(seconds)
        cpu, count, taken = cpu_seconds(server.pid) - cpu, server.acknowledged() - count, time.monotonic() - began
        for each in server.connections:
            each.driven = False
        self.pump(1.0)
        return cpu / count * 1e6, count / taken


def npm_package() -> Path:
    """npm's socket.io, installed once into the checkout's cache; ends the program where there is no npm."""
    found = NPM / "node_modules" / "socket.io"
    if found.exists():
        return found
    if shutil.which("node") is None or shutil.which("npm") is None:
        sys.exit("no Node.js: apt-get install nodejs npm")
    NPM.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(NPM), "socket.io@4"]
    subprocess.run(command, check=True, timeout=180)
    return found


@contextlib.contextmanager
def peer(package: Path) -> Iterator[tuple[int, int]]:
    """npm's server: its pid and port."""
    command = ["node", str(Path(__file__).with_name("ingest_peer.js"))]
    environment = {**os.environ, "SOCKET_IO": str(package)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    os.sched_setaffinity(process.pid, {SERVER_CORE})
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


async def tokens(url: str, password: str) -> list[str]:
    async with Client(url) as client:
        await client.login("admin", password)
        return [token async for _, token in enrolment.enrol(client, CONNECTIONS)]


def measure(rounds: int) -> list[Server]:
    raise_open_files()
    package, driver = npm_package(), Driver()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_installation(Path(folder), core=SERVER_CORE) as one,
        peer(package) as (pid, port),
    ):
        own_tokens = asyncio.run(tokens(one.url, one.password))
        os.sched_setaffinity(0, {CLIENT_CORE})
        ours = Server("aiwm controller", one.controller, driver.connect(int(one.url.rpartition(":")[2]), own_tokens))
        theirs = Server("npm socket.io 4", pid, driver.connect(port, ["any"] * CONNECTIONS))
        for number in range(rounds + 1):
            for server in (ours, theirs):
                cost, rate = driver.round(server, ROUND_SECONDS)
                if number:
                    # The first round is for warming up.
                    server.cost.append(cost)
                    server.rate.append(rate)
    return [ours, theirs]


def main() -> None:
    """Prints the table."""
    servers = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    base = statistics.median(servers[-1].cost)
    print(f"| {CONNECTIONS} connections, {len(METRICS)} bytes a message | processor, µs | messages/s | npm = 1 |")
    print("|---|---|---|---|")
    for each in servers:
        cost = statistics.median(each.cost)
        print(f"| {each.name} | {cost:.0f} | {statistics.median(each.rate):.0f} | {cost / base:.2f} |")
    print()
    print(
        "The controller does more with each: it checks that the connection is the node's current one, validates every"
    )
    print("field, merges the GPUs' values into what is known of the node, and keeps that in the store; npm's keeps an")
    print("unchecked list in memory.")


if __name__ == "__main__":
    main()
