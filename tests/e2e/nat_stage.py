"""The stage of the NAT show: a network of namespaces, a controller in one, a daemon in each of two behind routers.

Both nodes have the same private address, each behind a router of its own that masquerades; the controller has one
address for them, and another over a second pair of private addresses that stands for a VPN.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import netns
from tests.faults.link_harness import Node
from tests.faults.link_site import PASSWORD, Site, settings
from tests.servers import redis_command

from aiwm.protocol.resources.nodes import NodeCreate
from aiwm.sdk.client import Client
from aiwm.testing.world import eventually

PORT, REDIS_PORT = 3003, 6379
PUBLIC, VPN = "10.99.0.1", "10.8.0.1"
PRIVATE = "192.168.1.2"


@dataclass
class Place:
    """One node's corner of the network, and what runs there."""

    number: int
    router: netns.Router
    machine: netns.Machine
    node: Node
    deployment_id: str = ""
    engine: tuple[int, int] = (0, 0)
    port: int = 0

    @property
    def gateway(self) -> str:
        return f"198.51.100.{16 * self.number + 1}"

    def line(self, address: int) -> str:
        """An address that the provider may give its router."""
        return f"198.51.100.{16 * self.number + 2 + address}/28"

    @property
    def vpn_route(self) -> tuple[str, ...]:
        return (VPN, "via", f"10.8.{self.number + 1}.1")


class Wires:
    """The whole network: controller, two routers, two nodes, and the VPN beside it."""

    def __init__(self, network: netns.Network) -> None:
        self.controller = network.machine("c")
        self.url = f"http://{network.desk(self.controller)}:{PORT}"
        for address in (PUBLIC, VPN):
            self.controller.ip("address", "add", f"{address}/32", "dev", "lo")
        self.corners = [self._corner(network, number) for number in range(2)]

    def _corner(self, network: netns.Network, number: int) -> tuple[netns.Router, netns.Machine]:
        router, machine = network.router(f"r{number}", "wan"), network.machine(f"n{number}")
        base = 16 * number
        ends = (f"198.51.100.{base + 1}/28", f"198.51.100.{base + 2}/28")
        network.cable(self.controller, f"wan{number}", router, "wan", ends)
        network.cable(router, "lan", machine, "eth0", ("192.168.1.1/24", f"{PRIVATE}/24"))
        network.cable(
            self.controller, f"vpn{number}", machine, "vpn", (f"10.8.{number + 1}.1/24", f"10.8.{number + 1}.2/24")
        )
        router.ip("route", "add", "default", "via", f"198.51.100.{base + 1}")
        machine.ip("route", "add", "default", "via", "192.168.1.1")
        machine.ip("route", "add", VPN, "via", f"10.8.{number + 1}.1")
        router.open()
        return router, machine


@dataclass(frozen=True)
class Stage:
    """Everything up."""

    site: Site
    client: Client
    places: list[Place]


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Network, Redis, controller, worker and two nodes, up."""
    async with AsyncExitStack() as stack:
        wires = Wires(stack.enter_context(netns.network()))
        environment = settings(folder, f"redis://127.0.0.1:{REDIS_PORT}/0", PORT)
        environment |= {"AIWM_HOST": "0.0.0.0", "AIWM_PUBLIC_URL": wires.url}  # noqa: S104
        (folder / "redis").mkdir()
        site = Site(folder, wires.url, environment, wires.controller.exec)
        stack.callback(site.end, "redis")
        site.launch("redis", redis_command(REDIS_PORT, folder / "redis"))
        await eventually(lambda: b"eady to accept connections" in (folder / "redis.log").read_bytes())
        for service in ("controller", "worker"):
            site.start(service)
            stack.callback(site.end, service)
        await site.ready()
        client = await stack.enter_async_context(Client(wires.url))
        await client.login("admin", PASSWORD)
        places = []
        for number, (router, machine) in enumerate(wires.corners):
            made = await client.nodes.create(NodeCreate(name=f"gpu-{number}"))
            token = (await client.nodes.token(made.node_id)).token
            node = Node(made.node_id, token, folder / made.name, f"http://{PUBLIC}:{PORT}", prefix=machine.exec)
            stack.push_async_callback(node.end)
            await node.start()
            places.append(Place(number, router, machine, node))
        for place in places:
            await client.nodes.wait_online(place.node.node_id, timeout=30)
        yield Stage(site, client, places)
