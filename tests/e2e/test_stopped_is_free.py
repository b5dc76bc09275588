"""Once a stop is answered, what the engine had is free: its ports can be bound and its GPU holds nothing of it."""

import json
import socket
from pathlib import Path

import psutil
import pytest
from tests.daemon_support import QUICK, controller, order, running, settings_for, until
from tests.e2e.test_triton_engine import CONFIG, DOUBLER
from tests.faults.test_gpu_faults import reader
from tests.nvml_support import FakeDriver, build

from aiwm.daemon import keeper
from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.base import Address, Ports
from aiwm.daemon.engines.triton_install import find_binary
from aiwm.daemon.ports import choose_ports

GPU = "gpu GPU-aaaa used=0"


def is_free(port: int) -> bool:
    """Whether an engine could listen there now; connections that are being forgotten keep nobody from that."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
        return True


def family(data_dir: Path) -> list[int]:
    """The pids of the engine and of all that it has started."""
    state = json.loads((data_dir / "node/replicas/replica-1" / keeper.STATE).read_text())
    engine = psutil.Process(state["pid"])
    return [engine.pid, *(each.pid for each in engine.children(recursive=True))]


@pytest.mark.skipif(find_binary("") is None, reason="no tritonserver; install it with: pip install 'aiwm[triton]'")
async def test_when_a_stop_is_answered_ports_and_memory_are_free(tmp_path: Path) -> None:
    """The driver is one for tests, and does what a real one does: memory is a process's for as long as that lives."""
    driver = FakeDriver(build(tmp_path), tmp_path / "driver.txt")
    driver.say(GPU)
    chosen: list[Ports] = []

    def choosing(address: Address) -> Ports:
        chosen.append(choose_ports(address))
        return chosen[-1]

    async with controller() as one, reader(driver, tmp_path) as gpus:
        daemon = Daemon(settings_for(one, tmp_path), policy=QUICK, choose=choosing)
        async with running(daemon):
            await until(lambda: one.of("node.register"))
            artifact = one.add_files({"config.pbtxt": CONFIG, "1/model.py": DOUBLER})
            result = await one.result(await one.command("command.deploy", order(artifact).to_wire()), seconds=60)
            assert result["status"] == "success", result
            ports = [chosen[-1].http, chosen[-1].grpc, chosen[-1].metrics]
            pids = family(tmp_path)
            driver.say(GPU, *(f"context GPU-aaaa {pid} 1024" for pid in pids))
            assert not any(is_free(port) for port in ports)
            seen = await gpus.read()
            assert seen["memory"] == {str(pid): 1024 for pid in pids}
            assert seen["devices"][0]["memoryUsed"] == 1024 * len(pids) > 1024
            stop = {"deploymentId": "deploy-1", "graceSeconds": 10}
            await one.result(await one.command("command.stop", stop), seconds=30)
            assert [port for port in ports if not is_free(port)] == []
            seen = await gpus.read()
            assert (seen["memory"], seen["devices"][0]["memoryUsed"]) == ({}, 0)
            assert [pid for pid in pids if keeper.start_time(pid) is not None] == []
