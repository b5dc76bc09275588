"""One controller process and a fleet of real daemons with simulated machines: size, speed, and what cuts do to it.

The controller (SQLite, Redis) has core 0, the fleet and this program core 1. A round measures one size of fleet from
an installation of its own. Run it with `python bench/fleet.py [--nodes 10 1000] [--rounds 3] [--window 60]`; it prints
one table, and ends with 1 when a must was missed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aiwm.protocol.resources.models import ModelCreate
from aiwm.sdk.client import Client
from aiwm.testing.installation import Installation, cpu_seconds, open_installation, proportional_mb, running
from aiwm.testing.road import TINY_MODEL

CONTROLLER_CORE, FLEET_CORE = 0, 1
COMMANDS = 120
SHORT_CUT, SILENCE_LIMIT = 4.0, 60.0
SETTLE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run measures; seconds."""

    rounds: int
    window: float
    long_cut: float


@dataclass(slots=True)
class Measured:
    """Of one size of fleet. Each list has one number for each time it was measured."""

    nodes: int
    all_there: float = 0.0
    mb_per_node: float = 0.0
    controller_mb: float = 0.0
    fleet_mb_per_node: float = 0.0
    cpu: float = 0.0
    messages_a_second: float = 0.0
    messages: float = 0.0
    records: float = 0.0
    queries: float = 0.0
    logs_ms: list[float] = field(default_factory=list)
    start_ms: list[float] = field(default_factory=list)
    back_short: list[float] = field(default_factory=list)
    back_long: list[float] = field(default_factory=list)
    noticed: list[float] = field(default_factory=list)


class FleetProcess:
    """The fleet's process, asked over a pipe."""

    def __init__(self, process: "asyncio.subprocess.Process") -> None:
        self.process = process

    async def ask(self, question: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{question}\n".encode())
        answer = await self.process.stdout.readline()
        assert answer, "the fleet's process has ended"
        return json.loads(answer)

    async def connected(self) -> int:
        return int((await self.ask("count"))["connected"])


@contextlib.asynccontextmanager
async def fleet_of(nodes: int, one: Installation) -> AsyncIterator[FleetProcess]:
    environment = {
        "PATH": os.environ["PATH"],
        "AIWM_CONTROLLER_URL": one.url,
        "AIWM_ADMIN_PASSWORD": one.password,
        "AIWM_DATA_DIR": str(one.folder / "fleet"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "aiwm.testing.fleet_process", str(nodes)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        limit=2**24,
    )
    os.sched_setaffinity(process.pid, {FLEET_CORE})
    try:
        yield FleetProcess(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def until(fact: Callable[[], Awaitable[bool]], within: float) -> float:
    """Seconds until it is so; `within` is also the answer when it did not come to that."""
    began = time.monotonic()
    while time.monotonic() - began < within:
        if await fact():
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    return within


async def measure(nodes: int, plan: Plan) -> Measured:
    """One installation, one fleet, everything asked of it."""
    found = Measured(nodes)
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "operations.json"
        arguments = ("-m", "aiwm.testing.counted_controller", str(counts))
        with open_installation(Path(folder), core=CONTROLLER_CORE, controller=arguments) as one:
            async with Client(one.url) as client:
                await client.login("admin", one.password)
                model_id = await a_model(client, one)
                empty = proportional_mb(one.controller)
                async with fleet_of(nodes, one) as fleet:
                    found.all_there = await until(partial(all_of, fleet, nodes), 600)
                    await asyncio.sleep(SETTLE_SECONDS)
                    await steady(found, one, fleet, counts, plan.window)
                    found.controller_mb = proportional_mb(one.controller)
                    found.mb_per_node = (found.controller_mb - empty) / nodes
                    found.fleet_mb_per_node = proportional_mb(fleet.process.pid) / nodes
                    await commands(found, client, fleet, model_id)
                    await cuts(found, client, fleet, plan)
    return found


async def all_of(fleet: FleetProcess, nodes: int) -> bool:
    return await fleet.connected() == nodes


async def a_model(client: Client, one: Installation) -> str:
    """A ready model of a few bytes; the worker that verifies it ends again."""
    source = one.folder / "tiny"
    for path, content in TINY_MODEL.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    model = await client.models.create(ModelCreate.model_validate({"name": "tiny", "framework": "triton"}))
    worker = (sys.executable, "-m", "aiwm", "worker")
    with running(worker, one.environment, one.folder / "worker.log"):
        await client.models.upload(model.model_id, source)
        await client.models.wait_ready(model.model_id)
    return model.model_id


def operations(one: Installation, file: Path) -> dict[str, int]:
    """The controller's store operations until now."""
    file.unlink(missing_ok=True)
    os.kill(one.controller, signal.SIGUSR1)
    while not file.exists():
        time.sleep(0.01)
    found: dict[str, int] = json.loads(file.read_text())
    return found


async def steady(found: Measured, one: Installation, fleet: FleetProcess, counts: Path, window: float) -> None:
    """Nothing happens but telemetry and the minute's health check."""
    before, cpu, sent = operations(one, counts), cpu_seconds(one.controller), (await fleet.ask("count"))["sent"]
    began = time.monotonic()
    await asyncio.sleep(window)
    seconds = time.monotonic() - began
    found.cpu = (cpu_seconds(one.controller) - cpu) / seconds * 100
    sent, after = (await fleet.ask("count"))["sent"] - sent, operations(one, counts)
    minutes = seconds / 60
    found.messages_a_second, found.messages = sent / seconds, sent / minutes / found.nodes
    found.records = (after["records"] - before["records"]) / minutes / found.nodes
    found.queries = (after["queries"] - before["queries"]) / minutes


async def commands(found: Measured, client: Client, fleet: FleetProcess, model_id: str) -> None:
    """From a wish to an engine's start, and from a question to the node's answer."""
    deployment_id = ""
    for number in range(COMMANDS):
        before = len(await fleet.ask("starts"))
        asked = time.monotonic()
        wish = {"name": f"bench-{number}", "modelId": model_id, "resources": {"gpuCount": 0}}
        made = await client.deployments.create(wish)
        if deployment_id:
            await client.deployments.delete(deployment_id)
        deployment_id = made.deployment_id
        starts: list[float] = []
        while len(starts) <= before:
            await asyncio.sleep(0.01)
            starts = await fleet.ask("starts")
        found.start_ms.append((starts[-1] - asked) * 1000)
    await client.deployments.wait(deployment_id)
    for _ in range(COMMANDS):
        asked = time.monotonic()
        async for _ in client.deployments.logs(deployment_id, tail=1):
            pass
        found.logs_ms.append((time.monotonic() - asked) * 1000)


async def cuts(found: Measured, client: Client, fleet: FleetProcess, plan: Plan) -> None:
    """Links that end and come back, and a fleet that falls silent with its links open."""
    for _ in range(plan.rounds):
        found.noticed.append(await silence(client, fleet, found.nodes))
        found.back_short.append(await cut(fleet, found.nodes, SHORT_CUT, 120))
    if plan.long_cut:
        found.back_long.append(await cut(fleet, found.nodes, plan.long_cut, 300))


async def cut(fleet: FleetProcess, nodes: int, seconds: float, limit: float) -> float:
    """Seconds from the end of a cut until every node is registered again."""
    await fleet.ask("cut")
    await asyncio.sleep(seconds)
    await fleet.ask("heal")
    return await until(partial(all_of, fleet, nodes), limit)


async def silence(client: Client, fleet: FleetProcess, nodes: int) -> float:
    """Seconds until the controller shows all nodes offline whose links are open and say nothing any more."""

    async def offline() -> bool:
        return (await client.nodes.list(limit=1, filters={"status": "offline"})).pagination.total == nodes

    fleet.process.send_signal(signal.SIGSTOP)
    try:
        taken = await until(offline, SILENCE_LIMIT)
    finally:
        fleet.process.send_signal(signal.SIGCONT)
    await until(partial(all_of, fleet, nodes), 120)
    return taken


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[94]


Row = tuple[str, Callable[[Measured], float], str, float | None]
ROWS: tuple[Row, ...] = (
    ("controller, MB for each node", lambda m: m.mb_per_node, ".3f", 1.0),
    ("controller, MB in all", lambda m: m.controller_mb, ".0f", None),
    ("simulator, MB for each node", lambda m: m.fleet_mb_per_node, ".3f", None),
    ("registered and connected within, s", lambda m: m.all_there, ".1f", None),
    ("telemetry, messages a second", lambda m: m.messages_a_second, ".1f", None),
    ("controller's processor, % of a core", lambda m: m.cpu, ".1f", 10.0),
    ("messages of a node a minute", lambda m: m.messages, ".2f", None),
    ("store operations on records for a node a minute", lambda m: m.records, ".2f", None),
    ("store queries a minute in all", lambda m: m.queries, ".0f", None),
    ("POST /deployments to the engine's start, p95 ms", lambda m: p95(m.start_ms), ".0f", 300.0),
    ("logs asked of a node, p95 ms", lambda m: p95(m.logs_ms), ".0f", 300.0),
    ("silence noticed for all, median s", lambda m: statistics.median(m.noticed), ".1f", 10.0),
    ("silence noticed for all, worst s", lambda m: max(m.noticed), ".1f", 10.0),
    (f"all back after a cut of {SHORT_CUT:g} s, median s", lambda m: statistics.median(m.back_short), ".1f", 30.0),
    ("all back after a long cut, s", lambda m: max(m.back_long, default=0.0), ".1f", 90.0),
)


def table(sizes: list[Measured]) -> bool:
    """Prints it; whether every must was reached."""
    reached = True
    print(f"| one controller process, {platform.processor() or platform.machine()}, {os.cpu_count()} cores | ", end="")
    print(" | ".join(f"{each.nodes:,} nodes" for each in sizes), "| must |")
    print("|---|" + "---|" * len(sizes) + "---|")
    for name, value, form, must in ROWS:
        values = [value(each) for each in sizes]
        print(f"| {name} | {' | '.join(format(each, form) for each in values)} | {f'< {must:g}' if must else ''} |")
        reached = reached and (must is None or values[-1] < must)
    return reached


async def run(sizes: list[int], plan: Plan) -> bool:
    os.sched_setaffinity(0, {FLEET_CORE})
    return table([await measure(nodes, plan) for nodes in sizes])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=float, default=60.0)
    parser.add_argument("--long-cut", type=float, default=120.0)
    given = parser.parse_args()
    sys.exit(0 if asyncio.run(run(given.nodes, Plan(given.rounds, given.window, given.long_cut))) else 1)
