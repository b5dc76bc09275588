"""A command's way through the daemon: acknowledged, carried out, told, answered once."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest
from tests.daemon_support import QUICK, Controller, controller, order, running, settings_for, until

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.protocol import node_channel as channel


async def registered(one: Controller, times: int = 1) -> dict[str, Any]:
    found: list[dict[str, Any]] = await until(lambda: one.of(channel.NODE_REGISTER)[times - 1 :])
    return dict(found[0]["data"])


async def test_a_deploy_is_acknowledged_told_step_by_step_and_ends_in_one_result(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK)):
        await registered(one)
        artifact = one.add_files({"demo/config.pbtxt": b"x", "demo/1/model.py": b"y"})
        sent = await one.command(
            "command.deploy", order(artifact).to_wire(), metadata={"correlationId": "corr-of-the-post"}
        )
        result = await one.result(sent)
        assert result["status"] == "success"
        assert result["result"]["endpoint"].startswith("http://127.0.0.1:")
        assert one.states("replica-1") == ["preparing", "starting", "running"]
        acks = [each["data"]["originalMessageId"] for each in one.of(channel.COMMAND_ACK)]
        assert acks == [sent]
        told = one.of(channel.DEPLOYMENT_STATUS)[-1]
        assert told["metadata"]["correlationId"] == "corr-of-the-post"
        assert told["metadata"]["epoch"] == 1
        assert told["data"]["status"] == "running"
        assert one.of(channel.MODEL_PROGRESS)[-1]["data"]["bytesDone"] == 2
        assert (tmp_path / "node/artifacts" / artifact.digest / "demo/1/model.py").read_bytes() == b"y"


async def test_a_stop_ends_the_replica_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await registered(one)
        await one.result(await one.command("command.deploy", order().to_wire()))
        stop = await one.command("command.stop", {"deploymentId": "deploy-1"})
        assert (await one.result(stop))["result"] == {"stopped": ["replica-1"]}
        assert one.states("replica-1")[-2:] == ["stopping", "stopped"]
        assert list((tmp_path / "node/replicas").iterdir()) == []


async def test_a_repeated_message_is_acknowledged_again_and_done_once(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK)):
        await registered(one)
        for _ in range(3):
            await one.command("command.deploy", order().to_wire(), messageId="msg-same")
        await until(lambda: len(one.of(channel.COMMAND_ACK)) == 3)
        await one.result("msg-same")
        again = await one.command("command.deploy", order().to_wire())
        assert (await one.result(again))["result"]["note"] == "already so"
        assert launcher.starts == 1
        assert len(one.results("msg-same")) == 1


async def test_late_and_reordered_commands_change_nothing(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK)):
        await registered(one)
        await one.result(await one.command("command.deploy", order(generation=3).to_wire()))
        late_deploy = await one.command("command.deploy", order(generation=2).to_wire())
        late_stop = await one.command(
            "command.stop", {"deploymentId": "deploy-1", "replicaId": "replica-1", "generation": 2}
        )
        assert "nothing was changed" in (await one.result(late_deploy))["result"]["note"]
        assert (await one.result(late_stop))["result"]["stopped"] == []
        stop = {"deploymentId": "deploy-2", "replicaId": "replica-2", "generation": 5}
        await one.result(await one.command("command.stop", stop))
        overtaken = order(deployment_id="deploy-2", replica_id="replica-2", generation=4)
        refused = await one.result(await one.command("command.deploy", overtaken.to_wire()))
        assert refused["error"]["code"] == "DEPLOYMENT_NOT_RUNNING"
        assert launcher.starts == 1


async def test_a_stopped_replica_comes_back_only_with_a_newer_generation(tmp_path: Path) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await registered(one)
        await one.result(await one.command("command.deploy", order().to_wire()))
        await one.result(await one.command("command.stop", {"deploymentId": "deploy-1"}))
        refused = await one.result(await one.command("command.deploy", order().to_wire()))
        assert refused["error"]["code"] == "DEPLOYMENT_NOT_RUNNING"
        newer = await one.result(await one.command("command.deploy", order(generation=2).to_wire()))
        assert newer["status"] == "success"


@pytest.mark.parametrize(
    ("type_", "data", "code"),
    [
        ("command.deploy", {"deploymentId": "deploy-1"}, "COMMAND_INVALID"),
        ("command.teleport", {}, "COMMAND_INVALID"),
        ("command.logs", {"deploymentId": "deploy-1", "replicaId": "replica-1"}, "DEPLOYMENT_NOT_RUNNING"),
        ("command.deploy", order(gpu_device_ids=["7"]).to_wire(), "GPU_NOT_AVAILABLE"),
    ],
)
async def test_a_command_that_cannot_be_done_says_why(
    tmp_path: Path, type_: str, data: dict[str, Any], code: str
) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await registered(one)
        result = await one.result(await one.command(type_, data))
        assert result["error"]["code"] == code
        assert result["error"]["message"].startswith("cannot ")


async def test_an_engine_this_node_does_not_have_is_named(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    launcher.engines = {}
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK)):
        await registered(one)
        result = await one.result(await one.command("command.deploy", order(engine="vllm").to_wire()))
        assert result["error"]["code"] == "COMMAND_INVALID"
        assert "cannot run engine vllm" in result["error"]["message"]


async def test_a_file_that_is_not_what_was_registered_fails_the_replica(tmp_path: Path) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await registered(one)
        artifact = one.add_files({"demo/1/model.py": b"good"})
        one.files["demo/1/model.py"] = b"evil"
        result = await one.result(await one.command("command.deploy", order(artifact).to_wire()))
        assert result["error"]["code"] == "CHECKSUM_MISMATCH"
        assert one.states("replica-1")[-1] == "failed"
        assert list((tmp_path / "node/artifacts").iterdir()) == []


async def test_a_health_check_tells_the_node_and_its_replicas(tmp_path: Path) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await registered(one)
        await one.result(await one.command("command.deploy", order().to_wire()))
        result = (await one.result(await one.command("command.healthCheck", {})))["result"]
        assert result["status"] in ("healthy", "degraded")
        assert [(each["replicaId"], each["health"]) for each in result["replicas"]] == [("replica-1", "healthy")]


async def test_an_engine_that_crashes_is_started_again_and_the_reason_is_told(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK)):
        await registered(one)
        await one.result(await one.command("command.deploy", order().to_wire()))
        launcher.crash(tmp_path / "node/replicas/replica-1", "ended with code 139")
        await until(lambda: one.states("replica-1").count("running") == 2)
        messages = [each["data"].get("message", "") for each in one.of(channel.DEPLOYMENT_STATUS)]
        assert any("ended with code 139" in message and "restart 1" in message for message in messages)
        assert one.of(channel.DEPLOYMENT_STATUS)[-1]["data"]["restarts"] == 1


async def test_an_engine_that_does_not_answer_is_unhealthy_until_it_does(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK)):
        await registered(one)
        await one.result(await one.command("command.deploy", order().to_wire()))
        launcher.answering = False
        await until(lambda: one.states("replica-1")[-1] == "unhealthy")
        assert one.of(channel.DEPLOYMENT_STATUS)[-1]["data"]["health"] == "unhealthy"
        launcher.answering = True
        await until(lambda: one.states("replica-1")[-1] == "running")
        assert launcher.starts == 1


async def test_a_stop_overtakes_a_fetch_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await registered(one)
        artifact = one.add_files({"demo/1/model.py": b"slow"})
        one.hold = asyncio.Event()
        deploy = await one.command("command.deploy", order(artifact).to_wire())
        await until(lambda: one.fetched)
        await one.result(await one.command("command.stop", {"deploymentId": "deploy-1"}))
        assert (await one.result(deploy))["error"]["code"] == "DEPLOYMENT_NOT_RUNNING"
        assert one.states("replica-1") == ["preparing", "stopping", "stopped"]
        assert list((tmp_path / "node/artifacts").iterdir()) == []
        one.hold.set()


async def test_the_first_address_that_answers_serves_a_file(tmp_path: Path) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await registered(one)
        artifact = one.add_files({"demo/1/a b%2F.py": b"x"})
        file = artifact.files[0]
        missing, unreachable = f"{one.url}/blobs/not-there", "http://127.0.0.1:9/x"
        one.files["sig=a%2Fb"] = b"x"
        file.urls[:] = [missing, unreachable, f"{one.url}/blobs/signed?sig=a%2Fb"]
        result = await one.result(await one.command("command.deploy", order(artifact).to_wire()))
        assert result["status"] == "success", result
        assert one.fetched == ["not-there", "sig=a%2Fb"]


async def test_a_file_nobody_has_fails_the_replica_at_once(tmp_path: Path) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await registered(one)
        artifact = one.add_files({"demo/1/model.py": b"x"})
        one.files.clear()
        result = await one.result(await one.command("command.deploy", order(artifact).to_wire()))
        assert result["error"] == {
            "code": "NETWORK_ERROR",
            "message": "cannot fetch demo/1/model.py: HTTP 404",
            "retryable": True,
        }


async def test_a_full_disk_is_the_stated_reason_and_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await registered(one)
        with monkeypatch.context() as patch:
            patch.setattr("aiwm.daemon.ledger.write_atomically", full)
            result = await one.result(await one.command("command.deploy", order().to_wire()))
        assert result["error"]["code"] == "RESOURCE_EXHAUSTED"
        assert "No space left" in result["error"]["message"]
        again = await one.result(await one.command("command.deploy", order().to_wire()))
        assert again["status"] == "success"
