"""What one replica's files, engine or age provoke costs that replica alone: never the daemon, at no start of it."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.daemon_support import QUICK, Controller, controller, order, running, settings_for, until

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.base import Address, EnginePlan, Ports, Trial, Verdict
from aiwm.daemon.launchers.fake import FakeEngine, FakeLauncher
from aiwm.protocol import node_channel as channel
from aiwm.protocol.node_channel import DeployCommand
from aiwm.protocol.resources.deployments import Resources
from aiwm.protocol.states import EngineName

POLICY = replace(QUICK, trial_seconds=0.2)


class Faulty(FakeEngine):
    """Ends by a bug wherever `bug` says; answers a trial after `slow` seconds; `at_work` counts trials at once."""

    def __init__(self, bug: str = "", slow: float = 0.0) -> None:
        self.bug, self.slow = bug, slow
        self.at_work, self.most = 0, 0

    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        if self.bug == "prepare":
            raise RecursionError("maximum recursion depth exceeded")
        return super().prepare(order, artifact, workspace, ports, address)

    async def try_out(self, order: DeployCommand, base: str) -> Trial:
        if self.bug == "try_out":
            raise LookupError("unknown encoding: hex")
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        await asyncio.sleep(self.slow)
        self.at_work -= 1
        return Trial(Verdict.WORKED)


def daemon_of(one: Controller, data_dir: Path, engine: Faulty, launcher: FakeLauncher | None = None) -> Daemon:
    launcher = launcher or FakeLauncher()
    launcher.engines = {EngineName.TRITON: engine}
    return Daemon(settings_for(one, data_dir), launcher=launcher, policy=POLICY)


@pytest.mark.expects_errors
async def test_a_model_that_no_engine_can_be_started_for_fails_and_the_daemon_goes_on(tmp_path: Path) -> None:
    async with controller() as one:
        for _ in range(2):
            one.messages.clear()
            async with running(daemon_of(one, tmp_path, Faulty("prepare"))):
                await until(lambda: one.of(channel.NODE_REGISTER))
                result = await one.result(await one.command("command.deploy", order().to_wire()))
                assert result["error"]["code"] == "INTERNAL_ERROR"
                healthy = await one.result(await one.command("command.healthCheck", {}))
                assert [each["state"] for each in healthy["result"]["replicas"]] == ["failed"]


@pytest.mark.expects_errors
async def test_an_engine_whose_answer_cannot_be_read_serves_untried(tmp_path: Path) -> None:
    async with controller() as one, running(daemon_of(one, tmp_path, Faulty("try_out"))):
        await until(lambda: one.of(channel.NODE_REGISTER))
        result = await one.result(await one.command("command.deploy", order().to_wire()))
        assert result["result"]["state"] == "running"


async def test_a_first_inference_may_take_longer_than_a_later_one(tmp_path: Path) -> None:
    engine = Faulty(slow=POLICY.trial_seconds * 3)
    async with controller() as one, running(daemon_of(one, tmp_path, engine)):
        await until(lambda: one.of(channel.NODE_REGISTER))
        result = await one.result(await one.command("command.deploy", order().to_wire()))
        assert result["result"]["state"] == "running"
        assert engine.most == 1


async def test_replicas_that_share_a_gpu_start_one_after_the_other(tmp_path: Path) -> None:
    engine = Faulty(slow=0.1)
    async with controller() as one:
        daemon = daemon_of(one, tmp_path, engine)
        daemon._supervisor._gpus = lambda: {"0"}
        async with running(daemon):
            await until(lambda: one.of(channel.NODE_REGISTER))
            shared: dict[str, Any] = {
                "gpu_device_ids": ["0"],
                "gpu_device_id": "0",
                "resources": Resources(gpu_memory=1000),
            }
            wanted = [order(replica_id=f"replica-{number}", **shared) for number in range(4)]
            sent = [await one.command("command.deploy", each.to_wire()) for each in wanted]
            for each in sent:
                assert (await one.result(each))["result"]["state"] == "running"
            assert engine.most == 1


async def test_an_order_from_before_the_rules_fails_with_what_is_wrong_when_it_is_started_again(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    async with controller() as one:
        async with running(daemon_of(one, tmp_path, Faulty(), launcher)):
            await until(lambda: one.of(channel.NODE_REGISTER))
            await one.result(await one.command("command.deploy", order().to_wire()))
        ledger = tmp_path / "node/replicas/replica-1/ledger.json"
        ledger.write_text(ledger.read_text().replace('"engineArgs": []', '"engineArgs": ["--strict-readiness=false"]'))
        async with running(daemon_of(one, tmp_path, Faulty(), launcher)):
            await until(lambda: len(one.of(channel.NODE_REGISTER)) == 2)
            launcher.crash(tmp_path / "node/replicas/replica-1")
            failed = await until(
                lambda: [each for each in one.of("deployment.status") if each["data"]["state"] == "failed"]
            )
            assert "engineArgs[0]: --strict-readiness is not a deployment's to give" in failed[0]["data"]["message"]
