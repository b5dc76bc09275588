"""GPUs that break, vanish and come back, with a driver that is real to the daemon: a shared library it loads."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.daemon_support import Controller, controller, order, until
from tests.faults.test_daemon_engines import identity, stop
from tests.nvml_support import FakeDriver, build

from aiwm.protocol import node_channel as channel

A, B = "gpu GPU-aaaa", "gpu GPU-bbbb"

DAEMON = """
import asyncio, signal, sys
from pathlib import Path
from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.kit.settings import Settings
from aiwm.protocol.states import EngineName
from tests.daemon_support import QUICK, TOKEN, TinyEngine
from tests.flows.test_daemon_link import HastyClock

async def main():
    settings = Settings(data_dir=Path(sys.argv[1]), controller_url=sys.argv[2], node_token=TOKEN)
    launcher = ProcessLauncher({EngineName.TRITON: TinyEngine()})
    daemon = Daemon(settings, launcher=launcher, policy=QUICK, clock=HastyClock())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, daemon.stop)
    await daemon.run()

asyncio.run(main())
"""
READER = """
import gc, json, os, sys, threading
from pathlib import Path
from aiwm.daemon.gpu import Gpus
import psutil
gpus = Gpus(Path(sys.argv[1]))
for line in sys.stdin:
    for _ in range(int(line)):
        reading = gpus.read()
    gc.collect()
    own = psutil.Process()
    print(json.dumps({
        "devices": [gpu.to_wire() for gpu in reading.devices], "broken": reading.broken, "memory": reading.memory,
        "cuda": dict(reading.cuda_names),
        "resident": own.memory_info().rss, "files": own.num_fds(), "threads": threading.active_count(),
    }), flush=True)
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(library: Path, tmp_path: Path) -> FakeDriver:
    one = FakeDriver(library, tmp_path / "driver.txt")
    one.say(A, B)
    return one


class Reader:
    """A process that reads the GPUs when it is told to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._out = process.stdin, process.stdout

    async def read(self, times: int = 1) -> dict[str, Any]:
        self._to.write(f"{times}\n".encode())
        async with asyncio.timeout(60):
            answer: dict[str, Any] = json.loads(await self._out.readline())
        return answer

    async def healths(self) -> dict[str, str]:
        return {gpu["deviceId"]: gpu["health"] for gpu in (await self.read())["devices"]}


@asynccontextmanager
async def reader(driver: FakeDriver, folder: Path) -> AsyncIterator[Reader]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        READER,
        str(folder / "gpus.json"),
        env=os.environ | driver.environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield Reader(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def test_a_broken_sensor_is_a_gap_of_its_own_device(driver: FakeDriver, tmp_path: Path) -> None:
    driver.say(f"{A} temperature=!3 ecc=!3 used=2048", f"{B} temperature=70")
    async with reader(driver, tmp_path) as gpus:
        first, second = (await gpus.read())["devices"]
    assert first == {
        "deviceId": "0",
        "model": "Fake A100-80GB",
        "memoryTotal": 81_920,
        "memoryFree": 79_872,
        "memoryUsed": 2048,
        "utilization": 42.0,
        "uuid": "GPU-aaaa",
        "driverVersion": "550.54.15",
        "cudaVersion": "12.4",
        "health": "ok",
    }
    assert (second["temperature"], second["eccErrors"], second["health"]) == (70.0, 0, "ok")


async def test_a_device_that_supports_nothing_is_still_there(driver: FakeDriver, tmp_path: Path) -> None:
    every = ["uuid", "name", "used", "utilization", "temperature", "ecc", "processes", "events"]
    driver.say(f"{A} {' '.join(f'{each}=!3' for each in every)}", B)
    async with reader(driver, tmp_path) as gpus:
        answer = await gpus.read()
    assert [(gpu["deviceId"], gpu["uuid"], gpu["health"]) for gpu in answer["devices"]] == [
        ("0", "place-0", "ok"),
        ("1", "GPU-bbbb", "ok"),
    ]
    assert "model" not in answer["devices"][0]


@pytest.mark.parametrize("fault", ["state=15", "state=16", "handle=15", "used=!15"])
async def test_a_lost_gpu_is_an_error_under_its_old_id_and_well_again_when_it_is_back(
    driver: FakeDriver, tmp_path: Path, fault: str
) -> None:
    async with reader(driver, tmp_path) as gpus:
        assert await gpus.healths() == {"0": "ok", "1": "ok"}
        driver.say(f"{A} {fault}", B)
        answer = await gpus.read()
        assert answer["devices"][0] == {
            "deviceId": "0",
            "model": "Fake A100-80GB",
            "memoryTotal": 81_920,
            "uuid": "GPU-aaaa",
            "health": "error",
            "eccErrors": 0,
        }
        assert answer["devices"][1]["health"] == "ok"
        assert answer["cuda"] == {"0": "GPU-aaaa", "1": "GPU-bbbb"}
        driver.say(A, B)
        assert await gpus.healths() == {"0": "ok", "1": "ok"}


async def test_a_gpu_that_vanished_renames_no_other_also_for_the_next_daemon(
    driver: FakeDriver, tmp_path: Path
) -> None:
    async with reader(driver, tmp_path) as gpus:
        await gpus.read()
        driver.say(B)
        assert await gpus.healths() == {"0": "error", "1": "ok"}
    async with reader(driver, tmp_path) as gpus:
        answer = await gpus.read()
    assert [(gpu["deviceId"], gpu["uuid"]) for gpu in answer["devices"]] == [("0", "GPU-aaaa"), ("1", "GPU-bbbb")]
    assert answer["cuda"]["1"] == "GPU-bbbb"


async def test_faults_that_the_driver_tells_of_are_told_on(driver: FakeDriver, tmp_path: Path) -> None:
    async with reader(driver, tmp_path) as gpus:
        await gpus.read()
        driver.say(f"{A} ecc=3", B, "xid GPU-bbbb 63")
        first, second = (await gpus.read())["devices"]
        assert (first["eccErrors"], first["health"]) == (3, "warning")
        assert (second["xid"], second["health"]) == (63, "warning")
        driver.say(A, B, "xid GPU-bbbb 63", "xid GPU-bbbb 79", "xid GPU-bbbb 45")
        first, second = (await gpus.read())["devices"]
        assert first["health"] == "ok"
        assert (second["xid"], second["health"]) == (79, "error")


async def test_a_driver_that_goes_away_and_comes_back_is_opened_again(driver: FakeDriver, tmp_path: Path) -> None:
    async with reader(driver, tmp_path) as gpus:
        await gpus.read()
        for code, sentence in ((1, "kernel module is not loaded"), (18, "restart the daemon")):
            driver.say(A, B, f"count {code}", f"init {code}")
            for _ in range(2):
                answer = await gpus.read()
                assert sentence in answer["broken"]
                assert [gpu["health"] for gpu in answer["devices"]] == ["error", "error"]
        driver.say(A, B)
        answer = await gpus.read()
        assert answer["broken"] is None
        assert [gpu["health"] for gpu in answer["devices"]] == ["ok", "ok"]


async def test_an_old_driver_is_a_sentence_and_no_crash(tmp_path: Path) -> None:
    old = FakeDriver(build(tmp_path / "old", "-DOLD_DRIVER"), tmp_path / "driver.txt")
    old.say(A)
    async with reader(old, tmp_path) as gpus:
        answer = await gpus.read()
    assert answer["devices"] == []
    assert "NVIDIA's driver is too old for this daemon" in answer["broken"]


async def test_thousands_of_readings_leave_nothing_behind(driver: FakeDriver, tmp_path: Path) -> None:
    driver.say(f"{A} temperature=!3", f"{B} state=15", "process GPU-aaaa 12 1024", "xid GPU-aaaa 31")
    async with reader(driver, tmp_path) as gpus:
        before = await gpus.read(500)
        after = await gpus.read(5000)
        assert after["memory"] == {"12": 1024}
    assert after["resident"] - before["resident"] < 2**20
    assert (after["files"], after["threads"]) == (before["files"], before["threads"])


@asynccontextmanager
async def node(one: Controller, driver: FakeDriver, folder: Path) -> AsyncIterator[dict[str, Any]]:
    """A daemon as a process beside the fake driver, whose hours are short; its registration."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        DAEMON,
        str(folder),
        one.url,
        env=os.environ | driver.environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        yield (await until(lambda: one.of(channel.NODE_REGISTER), 20))[0]["data"]
    finally:
        process.terminate()
        await process.wait()


def health_in_metrics(one: Controller, device_id: str) -> str | None:
    told = [gpu for body in one.of(channel.METRICS) for gpu in body["data"]["gpuDevices"]]
    healths: list[str] = [gpu["health"] for gpu in told if gpu["deviceId"] == device_id]
    return healths[-1] if healths else None


def condition(one: Controller, type_: str) -> str | None:
    """The message of the last heartbeat's condition of that type."""
    told = [beat["data"]["conditions"] for beat in one.of(channel.HEARTBEAT)][-1:]
    found: list[str] = [each["message"] for last in told for each in last if each["type"] == type_]
    return found[0] if found else None


async def test_a_gpu_lost_under_a_running_daemon_is_told_and_not_used(driver: FakeDriver, tmp_path: Path) -> None:
    async with controller() as one, node(one, driver, tmp_path) as register:
        assert [gpu["uuid"] for gpu in register["gpuDevices"]] == ["GPU-aaaa", "GPU-bbbb"]
        assert register["conditions"] == []
        driver.say(f"{A} state=15", B)
        await until(lambda: health_in_metrics(one, "0") == "error", 20)
        assert health_in_metrics(one, "1") == "ok"
        refused = await one.result(await one.command("command.deploy", order(gpu_device_ids=["0"]).to_wire()))
        assert refused["error"]["code"] == "GPU_NOT_AVAILABLE"
        await one.result(await one.command("command.deploy", order(gpu_device_ids=["1"], replica_id="r-2").to_wire()))
        await stop(one)


async def test_a_broken_driver_is_a_condition_and_the_node_goes_on(driver: FakeDriver, tmp_path: Path) -> None:
    driver.say("init 18")
    async with controller() as one, node(one, driver, tmp_path) as register:
        assert register["gpuDevices"] == []
        (told,) = register["conditions"]
        assert (told["type"], told["status"]) == ("DriverBroken", True)
        assert "restart the machine" in told["message"]
        driver.say(A, B)
        await until(lambda: health_in_metrics(one, "0") == "ok", 20)
        await until(lambda: one.of(channel.HEARTBEAT) and condition(one, "DriverBroken") is None, 40)


async def test_a_driver_that_hangs_holds_up_neither_the_link_nor_the_end(driver: FakeDriver, tmp_path: Path) -> None:
    async with controller() as one, node(one, driver, tmp_path):
        driver.say("hang")
        await until(lambda: "has not answered for" in (condition(one, "DriverBroken") or ""), 50)
        result = await one.result(await one.command("command.healthCheck", {}))
        assert result["status"] == "success"


async def test_each_replica_s_usage_is_told(driver: FakeDriver, tmp_path: Path) -> None:
    def usage() -> dict[str, Any] | None:
        told = [body["data"]["replicas"] for body in one.of(channel.METRICS) if body["data"]["replicas"]]
        return told[-1][0] if told else None

    async with controller() as one, node(one, driver, tmp_path):
        await one.result(await one.command("command.deploy", order(gpu_device_ids=["0"]).to_wire()))
        driver.say(A, B, f"process GPU-aaaa {identity(tmp_path)[0]} 4096")
        await until(lambda: (usage() or {}).get("gpuMemoryUsed") == 4096, 20)
        found = usage()
        assert found is not None
        assert found["replicaId"] == "replica-1"
        assert found["ramUsed"] > 1
        await stop(one)
        await until(lambda: one.of(channel.METRICS)[-1]["data"]["replicas"] == [], 20)
