"""What the node daemon costs a machine: packages, memory, time until it is registered.

Installs `aiwm[node]` from this checkout into a fresh environment, starts the daemon there against a controller in this
process, and prints one table. Run: `python -m bench.daemon_footprint [STARTS]` from the repository's root.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tests.daemon_support import TOKEN, Controller, controller, until

from aiwm.protocol import node_channel as channel

ROOT = Path(__file__).parents[1]
MUST = {"packages": 35, "memory": 80.0, "ready": 1.5}

UV = str(Path(sys.executable).with_name("uv"))


def install(folder: Path) -> Path:
    """A fresh environment with nothing but the daemon; its interpreter."""
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    python = folder / "bin/python"
    subprocess.run([UV, "pip", "install", "-q", "--python", str(python), f"{ROOT}[node]"], check=True)
    return python


def packages(python: Path) -> int:
    listed = subprocess.run(
        [UV, "pip", "list", "--python", str(python), "--format", "freeze"], check=True, capture_output=True, text=True
    )
    return len(listed.stdout.splitlines())


async def one_start(python: Path, one: Controller, data_dir: Path) -> tuple[float, float, float]:
    """Seconds until registered, resident and proportional MB one second later."""
    one.messages.clear()
    environment = {
        "PATH": os.environ["PATH"],
        "AIWM_CONTROLLER_URL": one.url,
        "AIWM_NODE_TOKEN": TOKEN,
        "AIWM_DATA_DIR": str(data_dir),
    }
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(str(python), "-m", "aiwm.daemon", env=environment, cwd="/")
    try:
        await until(lambda: one.of(channel.NODE_REGISTER))
        ready = time.monotonic() - began
        await asyncio.sleep(1)
        memory = psutil.Process(process.pid).memory_full_info()
    finally:
        process.terminate()
        await process.wait()
    return ready, memory.rss / 1e6, memory.pss / 1e6


async def measure(starts: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        python = install(Path(folder) / "venv")
        count = packages(python)
        async with controller() as one:
            # The first start compiles the byte code: an installer's work, not the daemon's.
            await one_start(python, one, Path(folder) / "data")
            runs = [await one_start(python, one, Path(folder) / "data") for _ in range(starts)]
    ready, resident, proportional = (statistics.median(values) for values in zip(*runs, strict=True))
    print(f"| node daemon, median of {starts} starts | measured | must |")
    print("|---|---|---|")
    print(f"| packages installed | {count} | ≤ {MUST['packages']} |")
    print(f"| resident memory, MB | {resident:.1f} | ≤ {MUST['memory']:.0f} |")
    print(f"| proportional memory, MB | {proportional:.1f} | |")
    print(f"| start until registered, s | {ready:.2f} | ≤ {MUST['ready']} |")


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
