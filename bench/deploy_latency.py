"""How long from the sending of `POST /deployments` to its engine's start, with everything real but the engine.

It counts from the request and not from the 201, as the engine's start is often asked for before the client has read it.

One controller on a SQLite file, one daemon with the fake launcher, over loopback; queue in memory. Run it with
`python bench/deploy_latency.py [deployments]`; it prints a table.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from aiwm.daemon.engines.base import EnginePlan
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.daemon.launchers.port import NO_LIMITS, Room, Running
from aiwm.testing.road import ready_model
from aiwm.testing.world import eventually, open_world


class TimedLauncher(FakeLauncher):
    """Notes when each start was requested."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[float] = []

    async def start(self, folder: Path, plan: EnginePlan, room: Room = NO_LIMITS) -> Running:
        self.started.append(time.perf_counter())
        return await super().start(folder, plan, room)


def _more_than(starts: list[float], number: int) -> bool:
    return len(starts) > number


async def measure(count: int) -> list[float]:
    """Milliseconds for each of `count` deployments, one after the other."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder), store=f"{folder}/aiwm.db") as world:
            launcher = TimedLauncher()
            await world.node("bench", launcher)
            model_id = await ready_model(world)
            for number in range(count):
                body = {"name": f"bench-{number}", "modelId": model_id}
                sent = time.perf_counter()
                await world.call("POST", "/api/v1/deployments", json=body, expect=201)
                await eventually(partial(_more_than, launcher.started, number))
                taken.append((launcher.started[number] - sent) * 1000)
    return taken


def main() -> None:
    """Prints the table."""
    taken = asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    print("| deployments | p50 ms | p95 ms | p99 ms | most ms | must |")
    print("|---|---|---|---|---|---|")
    print(f"| {len(taken)} | {cuts[49]:.0f} | {cuts[94]:.0f} | {cuts[98]:.0f} | {max(taken):.0f} | p95 ≤ 300 |")


if __name__ == "__main__":
    main()
