"""What a daemon tells of its machine, and how seldom."""

import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.daemon_support import QUICK, controller, order, running, settings_for, until
from tests.flows.test_daemon_link import HastyClock

from aiwm.daemon import telemetry as machine
from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.base import Address, EnginePlan, Ports
from aiwm.daemon.launchers.fake import FakeEngine, FakeLauncher
from aiwm.daemon.launchers.port import Running
from aiwm.daemon.software import Software, Survey
from aiwm.daemon.telemetry import SystemTelemetry
from aiwm.protocol import node_channel as channel
from aiwm.protocol.node_channel import DeployCommand, Metrics, ReplicaUsage
from aiwm.protocol.resources.nodes import ContainerRuntime
from aiwm.protocol.states import EngineName


class StillTelemetry(SystemTelemetry):
    """This machine, as if it did not change, with two GPUs of which CUDA counts only the second."""

    looks = 0

    def metrics(self) -> Metrics:
        self.looks += 1
        return Metrics(gpu_devices=[], cpu_utilization=7, ram_free=100, disk_free=5000)

    def usage(self, engines: Mapping[str, Running]) -> list[ReplicaUsage]:
        return [ReplicaUsage(replica_id=each) for each in engines]

    def gpu_ids(self) -> set[str]:
        return {"0", "1"}

    def cuda_name(self, device_id: str) -> str:
        return f"GPU-{device_id}"


def still(folder: Path, found: Software | None = None) -> StillTelemetry:
    return StillTelemetry(folder, folder, "http://127.0.0.1", Survey(lambda: found or Software()))


class NotingEngine(FakeEngine):
    def __init__(self) -> None:
        self.gpus: list[list[str]] = []

    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        self.gpus.append(order.gpu_device_ids)
        return super().prepare(order, artifact, workspace, ports, address)


async def test_metrics_that_say_nothing_new_are_not_sent_but_to_a_new_connection(tmp_path: Path) -> None:
    telemetry = still(tmp_path)
    async with controller() as one:
        daemon = Daemon(
            settings_for(one, tmp_path), launcher=FakeLauncher(), telemetry=telemetry, policy=QUICK, clock=HastyClock()
        )
        async with running(daemon):
            await until(lambda: one.of(channel.METRICS))
            seen = telemetry.looks
            await until(lambda: telemetry.looks > seen + 10)
            assert len(one.of(channel.METRICS)) == 1
            await one.disconnect()
            await until(lambda: len(one.of(channel.METRICS)) == 2)
            await one.result(await one.command("command.deploy", order().to_wire()))
            last = await until(lambda: one.of(channel.METRICS)[2:])
            assert last[0]["data"]["replicas"] == [{"replicaId": "replica-1"}]


async def test_an_engine_is_given_its_gpus_as_cuda_calls_them_and_its_report_keeps_their_ids(tmp_path: Path) -> None:
    launcher, engine = FakeLauncher(), NotingEngine()
    launcher.engines = {EngineName.TRITON: engine}
    async with controller() as one:
        daemon = Daemon(settings_for(one, tmp_path), launcher=launcher, telemetry=still(tmp_path), policy=QUICK)
        async with running(daemon):
            await until(lambda: one.of(channel.NODE_REGISTER))
            await one.result(await one.command("command.deploy", order(gpu_device_ids=["1"]).to_wire()))
            assert engine.gpus == [["GPU-1"]]
            assert one.of(channel.DEPLOYMENT_STATUS)[-1]["data"]["gpuDeviceIds"] == ["1"]


async def test_old_software_and_a_full_disk_are_conditions_from_the_registration_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(machine, "LOW_DISK_MIB", usage.total // 2**20 + 1)
    found = Software(ContainerRuntime(type="docker", version="23.0.1"), "1.16.2", "0.5.5")
    telemetry = SystemTelemetry(tmp_path, tmp_path, "http://127.0.0.1", Survey(lambda: found))
    async with controller() as one:
        daemon = Daemon(
            settings_for(one, tmp_path), launcher=FakeLauncher(), telemetry=telemetry, policy=QUICK, clock=HastyClock()
        )
        async with running(daemon):
            register = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
            beat = (await until(lambda: one.of(channel.HEARTBEAT)))[0]["data"]
    assert register["containerRuntime"] == {"type": "docker", "version": "23.0.1"}
    for message in (register, beat):
        assert {each["type"] for each in message["conditions"]} == {
            "ContainerRuntimeOld",
            "ContainerToolkitOld",
            "EngineOld",
            "DiskFull",
        }


class JumpingClock(HastyClock):
    ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


async def test_a_clock_that_is_moved_is_a_condition_of_the_next_heartbeat(tmp_path: Path) -> None:
    clock = JumpingClock()
    async with controller() as one:
        daemon = Daemon(
            settings_for(one, tmp_path), launcher=FakeLauncher(), telemetry=still(tmp_path), policy=QUICK, clock=clock
        )
        async with running(daemon):
            assert (await until(lambda: one.of(channel.HEARTBEAT)))[0]["data"]["conditions"] == []
            clock.ahead = timedelta(hours=1)
            await until(lambda: one.of(channel.HEARTBEAT)[-1]["data"]["conditions"])
            (told,) = one.of(channel.HEARTBEAT)[-1]["data"]["conditions"]
            assert told["type"] == "ClockJumped"


async def test_a_data_folder_whose_disk_is_away_stops_nothing(tmp_path: Path) -> None:
    telemetry = SystemTelemetry(tmp_path / "away", tmp_path, "http://127.0.0.1")
    assert telemetry.facts().disk_free is None
    assert telemetry.metrics().disk_free is None
    assert telemetry.conditions() == []
