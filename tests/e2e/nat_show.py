"""Two machines behind NAT serve a real Triton each through every cut a link can have: `python -m tests.e2e.nat_show`.

Every machine is a network namespace. Both nodes have the same private address, 192.168.1.2, each behind a router of its
own that masquerades; the controller is 10.99.0.1 to both, and 10.8.0.1 over a second pair of private addresses that
stands for a VPN. Engines listen on 127.0.0.1 in their namespace and are asked there. Needs root, ip, nft and Triton;
takes some two minutes, and at its end says how many engines were started again: 0.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tests import netns
from tests.e2e.nat_stage import PORT, PRIVATE, PUBLIC, VPN, Place, Stage, stage
from tests.faults.link_site import a_model, silence

from aiwm.assets import digits
from aiwm.daemon.engines.triton_install import find_binary
from aiwm.protocol.states import DeploymentStatus, NodeStatus
from aiwm.testing.world import eventually

NOTICED_SECONDS = 10.0
BACK_SECONDS = 90.0
_ASK = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""

Say = Callable[[str], object]


def missing() -> str | None:
    """What the show needs and this machine has not."""
    if find_binary("") is None:
        return "no tritonserver: pip install nvidia-pytriton==0.7.0"
    return netns.missing()


@dataclass
class Show:
    """One walk through all cuts; `restarts` counts engines that are not the ones that were started."""

    stage: Stage
    say: Say
    restarts: int = 0
    began: float = field(default_factory=time.monotonic)

    async def walk(self) -> int:
        await self._deploy()
        cuts: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (
            ("both cables out for 2 s", self._short_cut),
            ("both lines get another address, all translations are forgotten", self._renumbered),
            ("both routers swallow everything: half-open links", self._half_open),
            ("both cables out for 30 s", self._long_cut),
            ("the controller is killed (-9) and away for 10 s", self._controller_killed),
            ("both daemons are killed (-9)", self._daemons_killed),
            ("both nodes move over to the VPN", self._to_the_vpn),
            ("the VPN is cut, and healed", self._vpn_cut),
            ("the VPN is lost for good: both nodes move back behind NAT", self._from_the_vpn),
        )
        for number, (name, cut) in enumerate(cuts, 1):
            self._tell(f"{number}. {name}")
            await cut()
            await self._untouched()
        await self._stop()
        self.say(f"engine restarts: {self.restarts}")
        return self.restarts

    def _tell(self, text: str) -> None:
        self.say(f"{time.monotonic() - self.began:6.1f} s  {text}")

    async def _deploy(self) -> None:
        model_id = await a_model(self.stage.client)
        for place in self.stage.places:
            params = {"name": f"digits-{place.number}", "modelId": model_id, "nodeId": place.node.node_id}
            place.deployment_id = (await self.stage.client.deployments.create(params)).deployment_id
        for place in self.stage.places:
            running = await self.stage.client.deployments.wait(place.deployment_id, timeout=120)
            place.port = running.container_port or 0
            (place.engine,) = place.node.engines()
            name = psutil.Process(place.engine[0]).name()
            assert name == "tritonserver"
            node = await self.stage.client.nodes.get(place.node.node_id)
            assert node.ip_address == PRIVATE
            self._tell(f"node {place.number} at {node.ip_address} behind NAT runs {name}, pid {place.engine[0]}")
        await self._untouched()

    async def _untouched(self) -> None:
        """Both engines are the very processes they were, the controller counts no restart, and they answer."""
        for place in self.stage.places:
            deployment = await self.stage.client.deployments.wait(place.deployment_id, timeout=60)
            self.restarts += sum(each.restarts for each in deployment.replica_status)
            self.restarts += place.node.engines() != [place.engine]
            guess, label = await asyncio.to_thread(self._ask, place)
            assert guess == label, f"node {place.number} answered {guess} for a {label}"
        pids = " and ".join(str(place.engine[0]) for place in self.stage.places)
        self._tell(f"   engines {pids} as before, both answer; restarts so far: {self.restarts}")

    def _ask(self, place: Place) -> tuple[int, int]:
        row = digits()[0]
        body = {"inputs": [{"name": "PIXELS", "datatype": "FP32", "shape": [1, 64], "data": list(row.pixels)}]}
        url = f"http://127.0.0.1:{place.port}/v2/models/digits-{place.number}/infer"
        answer: Any = json.loads(place.machine.run(sys.executable, "-IS", "-c", _ASK, url, json.dumps(body)))
        return int(answer["outputs"][0]["data"][0]), row.label

    async def _short_cut(self) -> None:
        epochs = await self._epochs()
        for place in self.stage.places:
            place.machine.down("eth0")
        await silence(2)
        self._plug_in()
        await self._all(NodeStatus.ONLINE, NOTICED_SECONDS)
        self._tell(f"   connections kept: {await self._epochs() == epochs}")

    async def _renumbered(self) -> None:
        epochs = await self._epochs()
        for place in self.stage.places:
            place.router.renumber(place.line(0), place.line(1), place.gateway)
        await self._noticed(epochs)
        await self._back(epochs)

    async def _half_open(self) -> None:
        epochs = await self._epochs()
        for place in self.stage.places:
            place.router.swallow()
        await self._noticed(epochs)
        for place in self.stage.places:
            place.router.spit_out()
        await self._back(epochs)

    async def _long_cut(self) -> None:
        epochs = await self._epochs()
        for place in self.stage.places:
            place.machine.down("eth0")
        await silence(30)
        self._plug_in()
        await self._back(epochs)

    def _plug_in(self) -> None:
        for place in self.stage.places:
            place.machine.up("eth0", ("default", "via", "192.168.1.1"))

    async def _controller_killed(self) -> None:
        epochs = await self._epochs()
        self.stage.site.kill("controller")
        await silence(10)
        self.stage.site.start("controller")
        await self.stage.site.ready()
        await self._back(epochs)

    async def _daemons_killed(self) -> None:
        await self._restarted(f"http://{PUBLIC}:{PORT}", PRIVATE)

    async def _to_the_vpn(self) -> None:
        await self._restarted(f"http://{VPN}:{PORT}", "10.8.")

    async def _from_the_vpn(self) -> None:
        for place in self.stage.places:
            place.machine.down("vpn")
        await self._restarted(f"http://{PUBLIC}:{PORT}", PRIVATE)

    async def _restarted(self, url: str, address: str) -> None:
        """Every daemon is killed and dials `url` from then on, from an address that begins like `address`."""
        epochs = await self._epochs()
        for place in self.stage.places:
            await place.node.kill()
            place.node.url = url
            await place.node.start()
        await self._back(epochs)
        nodes = [await self.stage.client.nodes.get(place.node.node_id) for place in self.stage.places]
        assert all((node.ip_address or "").startswith(address) for node in nodes)
        self._tell(f"   they dial {url} from {' and '.join(str(node.ip_address) for node in nodes)}")

    async def _vpn_cut(self) -> None:
        epochs = await self._epochs()
        for place in self.stage.places:
            place.machine.down("vpn")
            # Without it, what goes to the controller's VPN address would leave through the router and die there.
            place.machine.ip("route", "add", "blackhole", VPN)
        await self._noticed(epochs)
        for place in self.stage.places:
            place.machine.ip("route", "del", "blackhole", VPN)
            place.machine.up("vpn", place.vpn_route)
        await self._back(epochs)

    async def _epochs(self) -> list[int]:
        return [(await self.stage.client.nodes.get(place.node.node_id)).epoch for place in self.stage.places]

    async def _all(self, status: NodeStatus, within: float) -> float:
        """Seconds until every node is shown so."""

        async def so() -> bool:
            nodes = [await self.stage.client.nodes.get(place.node.node_id) for place in self.stage.places]
            return all(node.status is status for node in nodes)

        began = time.monotonic()
        await eventually(so, within=within)
        return time.monotonic() - began

    async def _noticed(self, epochs: list[int]) -> None:
        """Every node was seen offline, or is on a newer connection already."""
        seen: set[int] = set()

        async def so() -> bool:
            for place, epoch in zip(self.stage.places, epochs, strict=True):
                node = await self.stage.client.nodes.get(place.node.node_id)
                if node.status is NodeStatus.OFFLINE or node.epoch > epoch:
                    seen.add(place.number)
            return len(seen) == len(self.stage.places)

        began = time.monotonic()
        await eventually(so, within=NOTICED_SECONDS)
        self._tell(f"   noticed within {time.monotonic() - began:.1f} s")

    async def _back(self, epochs: list[int]) -> None:
        """Every node is online on a newer connection."""

        async def so() -> bool:
            nodes = [await self.stage.client.nodes.get(place.node.node_id) for place in self.stage.places]
            pairs = zip(nodes, epochs, strict=True)
            return all(node.status is NodeStatus.ONLINE and node.epoch > epoch for node, epoch in pairs)

        began = time.monotonic()
        await eventually(so, within=BACK_SECONDS)
        self._tell(f"   both back {time.monotonic() - began:.1f} s later")

    async def _stop(self) -> None:
        for place in self.stage.places:
            await self.stage.client.deployments.stop(place.deployment_id)
        for place in self.stage.places:
            await self.stage.client.deployments.wait(place.deployment_id, DeploymentStatus.STOPPED, timeout=60)
            assert place.node.engines() == []
        self._tell("both stopped")


async def show(folder: Path, say: Say = print) -> int:
    """The whole show below an empty folder; how many engines were started again."""
    async with stage(folder) as built:
        return await Show(built, say).walk()


def main() -> int:
    """0 when no engine was started again."""
    if (reason := missing()) is not None:
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="aiwm-nat-") as folder:
        return asyncio.run(show(Path(folder), lambda text: print(text, flush=True)))


if __name__ == "__main__":
    sys.exit(main())
