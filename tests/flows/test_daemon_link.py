"""The daemon's link: handshake, telemetry, refusals, and coming back."""

import logging
from pathlib import Path

import pytest
from tests.daemon_support import QUICK, controller, order, running, settings_for, until

from aiwm import __version__
from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.kit.clock import SystemClock
from aiwm.protocol import node_channel as channel

OWN_PACE = (5, 10, 30)
"""What the daemon waits between its own rounds, in seconds."""


class HastyClock(SystemClock):
    """Waits a hundredth of what it is asked to, and remembers what that was."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await super().sleep(seconds / 100)


async def test_a_node_says_what_it_is_and_beats_at_the_pace_it_is_told(tmp_path: Path) -> None:
    async with controller() as one:
        one.heartbeat_ms, one.metrics_ms = 100, 100
        daemon = Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK, clock=HastyClock())
        async with running(daemon):
            register = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
            assert register["ipAddress"] == "127.0.0.1"
            assert register["daemonVersion"] == __version__
            assert register["launchers"] == ["fake"]
            assert register["replicas"] == []
            assert register["ramTotal"] > register["ramFree"] > 0
            assert register["diskTotal"] > register["diskFree"] > 0
            assert {"hostname", "cpuCores", "cpuModel", "os", "uptimeSeconds", "gpuDevices"} <= register.keys()
            beat = (await until(lambda: one.of(channel.HEARTBEAT), 40))[0]["data"]
            assert beat["status"] in ("healthy", "degraded")
            assert beat["uptimeSeconds"] > 0
            metrics = (await until(lambda: one.of(channel.METRICS)))[0]["data"]
            assert 0 <= metrics["cpuUtilization"] <= 100


async def test_after_a_restart_of_the_controller_the_node_says_what_it_runs(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    async with controller() as one:
        daemon = Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK, clock=HastyClock())
        async with running(daemon):
            await until(lambda: one.of(channel.NODE_REGISTER))
            await one.result(await one.command("command.deploy", order().to_wire()))
            await one.close()
            one.messages.clear()
            await one.start()
            register = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
            assert [(each["replicaId"], each["generation"], each["state"]) for each in register["replicas"]] == [
                ("replica-1", 1, "running")
            ]
            assert launcher.starts == 1


async def test_a_disconnect_by_the_controller_is_followed_by_a_new_connection(tmp_path: Path) -> None:
    async with controller() as one:
        daemon = Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK, clock=HastyClock())
        async with running(daemon):
            await until(lambda: one.of(channel.NODE_REGISTER))
            await one.disconnect()
            await until(lambda: len(one.of(channel.NODE_REGISTER)) == 2)


@pytest.mark.parametrize("code", ["TOKEN_EXPIRED", "TOKEN_INVALID", "NODE_NOT_FOUND", "NODE_INACTIVE"])
async def test_a_refusal_is_said_in_one_line_and_tried_again_late(
    tmp_path: Path, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = HastyClock()
    async with controller() as one:
        one.refusal = code
        daemon = Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK, clock=clock)
        with caplog.at_level(logging.WARNING):
            async with running(daemon):
                await until(lambda: "refused" in caplog.text)
                one.refusal = None
                await until(lambda: one.of(channel.NODE_REGISTER))
        lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
        assert len(lines) == 1
        assert f"{code}: no entry" in lines[0]
        assert max(seconds for seconds in clock.asked if seconds not in OWN_PACE) >= 30


async def test_a_controller_that_is_away_is_waited_for_ever_longer(tmp_path: Path) -> None:
    clock = HastyClock()
    async with controller() as one:
        settings = settings_for(one, tmp_path)
        await one.close()
        async with running(Daemon(settings, launcher=FakeLauncher(), policy=QUICK, clock=clock)):
            waits = await until(lambda: [each for each in clock.asked if each not in OWN_PACE][3:])
            assert 8 <= waits[0] <= 16
            await one.start()
            await until(lambda: one.of(channel.NODE_REGISTER))


async def test_messages_that_make_no_sense_are_survived(tmp_path: Path) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await until(lambda: one.of(channel.NODE_REGISTER))
        for body in ({"type": "command.deploy"}, {"type": "command.stop", "data": [1]}, {"type": "news.today"}):
            await one.emit(body)
        result = await one.result(await one.command("command.healthCheck", {"later": "field"}))
        assert result["status"] == "success"
