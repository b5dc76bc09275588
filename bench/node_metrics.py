"""What a thousand nodes with eight GPUs each cost in conditions, history and Prometheus.

    python bench/node_metrics.py

Nodes are observations in memory, no sockets: what a message costs on its way here is another measurement. History is
written to SQLite on disk. CPU time of this process; medians.
"""

import asyncio
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from aiwm.infra.store.sqlite import open_sqlite
from aiwm.kit.clock import SystemClock
from aiwm.kit.ids import new_id
from aiwm.nodes import alerts, conditions
from aiwm.nodes.history import History
from aiwm.nodes.metrics import NodeCollector
from aiwm.nodes.presence import Presence, Session
from aiwm.nodes.records import NodeObservation, NodeRecord
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.nodes import GpuDevice
from aiwm.protocol.states import NodeRole, NodeStatus

NODES, GPUS, WRITTEN = 1000, 8, 100
START = datetime(2026, 1, 1, 10, tzinfo=UTC)

Fleet = list[tuple[NodeRecord, NodeObservation]]


class MovedClock(SystemClock):
    """Wall time as this script moves it."""

    def __init__(self) -> None:
        self.moment = START

    def now(self) -> datetime:
        return self.moment


def a_node(number: int) -> tuple[NodeRecord, NodeObservation]:
    """One that is well, with numbers of its own."""
    node_id = new_id("node")
    record = NodeRecord(
        id=node_id,
        name=f"gpu-{number}",
        owner=Owner(org_id="org-1"),
        created_by="user-1",
        created_at=START,
        updated_at=START,
        role=[NodeRole.WORKER],
    )
    gpus = [
        GpuDevice(
            device_id=str(device),
            model="H100",
            uuid=new_id("GPU"),
            memory_total=81_920,
            memory_used=random.randint(0, 80_000),
            utilization=random.uniform(0, 100),
            temperature=random.randint(30, 80),
            ecc_errors=0,
            health="ok",
        )
        for device in range(GPUS)
    ]
    seen = NodeObservation(
        id=node_id,
        status=NodeStatus.ONLINE,
        gpu_devices=gpus,
        cpu_utilization=random.uniform(0, 100),
        ram_total=1_000_000,
        ram_free=random.randint(0, 1_000_000),
        disk_total=10_000_000,
        disk_free=5_000_000,
    )
    return record, seen


def cpu_ms(work: Callable[[], object], rounds: int = 5) -> float:
    """The median of several rounds, in milliseconds of CPU."""
    spent = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        spent.append((time.process_time() - begin) * 1000)
    return statistics.median(spent)


def judge_all(fleet: Fleet) -> None:
    """What each metrics message adds."""
    for record, seen in fleet:
        alerts.told(record, conditions.judged(seen, at=START), at=START)


def rendered(fleet: Fleet) -> bytes:
    """What Prometheus is answered."""
    presence, registry = Presence(), CollectorRegistry()
    for record, _ in fleet:
        presence.opened(Session(record.id, record.id, 1))
    registry.register(NodeCollector(lambda: fleet, presence))
    return generate_latest(registry)


async def history_of(fleet: Fleet, folder: Path) -> None:
    """An hour of some nodes in memory, then minutes of them in the store, and what is read back."""
    clock = MovedClock()
    store = await open_sqlite(folder / "history.db")
    history = History(store, clock)
    await history.prepare()

    def sampled() -> None:
        for _, seen in fleet:
            history.note(seen)

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(360):
        for _, seen in fleet:
            history.note(seen)
        clock.moment += timedelta(seconds=10)
    print(f"| memory of a ring, KB | {(tracemalloc.get_traced_memory()[0] - before) / 1000 / len(fleet):.1f} |")
    tracemalloc.stop()
    print(f"| a sample into the ring, µs | {cpu_ms(sampled) * 1000 / WRITTEN:.0f} |")
    spent: list[float] = []
    for _ in range(10):
        begin = time.process_time()
        for record, seen in fleet:
            history.note(seen)
            await history.write(record.id)
        spent.append((time.process_time() - begin) * 1000 / len(fleet))
        clock.moment += timedelta(seconds=60)
    print(f"| a node's minute into the store, ms | {statistics.median(spent):.2f} |")
    node_id, end = fleet[0][0].id, clock.now()
    begin = time.perf_counter()
    await history.read(node_id, end - timedelta(minutes=50), end, 10)
    print(f"| the last hour read, ms of wall time | {(time.perf_counter() - begin) * 1000:.0f} |")
    await store.close()


def main() -> None:
    """Prints the table."""
    fleet = [a_node(number) for number in range(NODES)]
    print("| what | measured |\n|---|---|")
    print(f"| conditions and alerts of one message, µs | {cpu_ms(lambda: judge_all(fleet)) * 1000 / NODES:.0f} |")
    print(f"| /metrics of {NODES} nodes, {GPUS} GPUs each, ms | {cpu_ms(lambda: rendered(fleet)):.0f} |")
    print(f"| its size, MB | {len(rendered(fleet)) / 1e6:.1f} |")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(history_of(fleet[:WRITTEN], Path(folder)))


if __name__ == "__main__":
    main()
