"""The daemon's link: handshake, telemetry, refusals, and coming back."""

import asyncio
import logging
import time
from dataclasses import replace
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


async def test_a_node_that_can_run_something_else_by_now_says_so_on_the_same_connection(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    async with controller() as one:
        daemon = Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK, clock=HastyClock())
        async with running(daemon):
            await until(lambda: one.of(channel.NODE_REGISTER) and one.of(channel.HEARTBEAT))
            launcher.engines, launcher.names = {}, ("fake", "docker")
            await until(lambda: len(one.of(channel.NODE_REGISTER)) == 2)
            data = one.of(channel.NODE_REGISTER)[-1]["data"]
            assert (data["engines"], data["launchers"], one.connects) == ([], ["fake", "docker"], 1)


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


async def test_each_run_of_a_daemon_names_itself_in_connect_and_register(tmp_path: Path) -> None:
    async with controller() as one:
        for _ in range(2):
            one.messages.clear()
            async with running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
                register = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
                assert register["instance"] == one.instances[-1]
                await one.disconnect()
                await until(lambda: len(one.of(channel.NODE_REGISTER)) == 2)
        first, again, second, _ = one.instances
        assert first == again != second
        assert first.startswith("instance-")


async def test_a_daemon_whose_identity_another_uses_says_so_waits_long_and_keeps_its_engines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, launcher = HastyClock(), FakeLauncher()
    async with controller() as one:
        daemon = Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK, clock=clock)
        with caplog.at_level(logging.WARNING):
            async with running(daemon):
                await until(lambda: one.of(channel.NODE_REGISTER))
                await one.result(await one.command("command.deploy", order().to_wire()))
                one.refusal = "NODE_REPLACED"
                await one.disconnect()
                await until(lambda: "another daemon uses this node's identity" in caplog.text)
                one.refusal = None
                await until(lambda: len(one.of(channel.NODE_REGISTER)) == 2)
                register = one.of(channel.NODE_REGISTER)[1]["data"]
        assert [each["state"] for each in register["replicas"]] == ["running"]
        assert launcher.starts == 1
        assert any(60 <= seconds <= 120 for seconds in clock.asked)


async def test_what_the_node_finds_of_its_own_records_is_in_register_and_heartbeat(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node/tombstones.json").write_text("{")
    async with controller() as one:
        one.heartbeat_ms = 100
        daemon = Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK, clock=HastyClock())
        async with running(daemon):
            register = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
            beat = (await until(lambda: one.of(channel.HEARTBEAT), 40))[0]["data"]
    for told in (register, beat):
        assert [(each["type"], each["status"]) for each in told["conditions"]] == [("LedgerUnreadable", True)]


async def test_last_lines_of_an_engine_that_ended_while_the_controller_was_away_come_after_the_register(
    tmp_path: Path,
) -> None:
    launcher = FakeLauncher()
    launcher.written = "".join(f"line {number}\n" for number in range(300))
    async with controller() as one:
        daemon = Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK, clock=HastyClock())
        async with running(daemon):
            await until(lambda: one.of(channel.NODE_REGISTER))
            await one.result(await one.command("command.deploy", order(generation=4).to_wire()))
            await one.close()
            launcher.crash(tmp_path / "node/replicas/replica-1", "ended with code 139")
            await until(lambda: launcher.starts == 2)
            one.messages.clear()
            await one.start()
            sent = (await until(lambda: one.of(channel.DEPLOYMENT_LOGS)))[0]
            assert [each["type"] for each in one.messages][:2] == [channel.NODE_REGISTER, channel.DEPLOYMENT_LOGS]
            assert sent["data"]["lines"] == [f"line {number}" for number in range(100, 300)]
            assert (sent["data"]["reason"], sent["data"]["restarts"]) == ("ended with code 139", 0)
            assert sent["metadata"]["epoch"] == one.connects
            assert sent["metadata"]["generation"] == 4


class Tap:
    """A TCP relay that can be closed without a word: what comes after is taken by nobody, or `swallows` it."""

    def __init__(self, port: int) -> None:
        self.target, self.open, self.port = port, asyncio.Event(), 0
        self.open.set()
        self.swallows = False
        self.lines: list[asyncio.StreamWriter] = []
        self.relays: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Tap":
        self.server = await asyncio.start_server(self._relay, "127.0.0.1", 0, limit=2**12)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        self.open.set()
        for line in self.lines:
            line.close()
        await asyncio.gather(*self.relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self.target)
        self.lines += [writer, forth]
        for pair in ((reader, forth), (back, writer)):
            self.relays.append(asyncio.create_task(self._copy(*pair)))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(4096):
            await self.open.wait()
            if self.swallows:
                continue
            writer.write(chunk)
            await writer.drain()
        writer.close()


async def test_a_socket_that_takes_nothing_more_is_given_up_and_what_it_had_is_sent_again(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    launcher.written = "x" * 60_000 + "\n" + "why it ended\n"
    async with controller() as one, Tap(one.port) as tap:
        settings = replace(settings_for(one, tmp_path), controller_url=f"http://127.0.0.1:{tap.port}")
        async with running(Daemon(settings, launcher=launcher, policy=QUICK, clock=HastyClock())) as daemon:
            await until(lambda: one.of(channel.NODE_REGISTER))
            for number in range(40):
                await one.command("command.deploy", order(replica_id=f"replica-{number}").to_wire())
            await until(lambda: launcher.starts == 40)
            tap.open.clear()
            launcher.written = "why it ended\n" * 5000
            flood = [asyncio.create_task(_shout(daemon)) for _ in range(200)]
            for number in range(40):
                launcher.crash(tmp_path / f"node/replicas/replica-{number}")
            began = time.monotonic()
            await asyncio.gather(*flood)
            assert time.monotonic() - began < 20
            tap.open.set()
            await until(lambda: len(one.of(channel.NODE_REGISTER)) >= 2, 30)
            await until(lambda: len({each["data"]["replicaId"] for each in one.of(channel.DEPLOYMENT_LOGS)}) == 40, 20)
            assert daemon._link._outbox.take_dropped() == 0


async def test_what_went_into_a_link_that_was_dead_already_is_sent_again_on_the_next(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    launcher.written = "why it ended\n"
    async with controller() as one, Tap(one.port) as tap:
        settings = replace(settings_for(one, tmp_path), controller_url=f"http://127.0.0.1:{tap.port}")
        async with running(Daemon(settings, launcher=launcher, policy=QUICK, clock=HastyClock())) as daemon:
            await until(lambda: one.of(channel.NODE_REGISTER))
            await one.result(await one.command("command.deploy", order().to_wire()))
            tap.swallows = True
            began = time.monotonic()
            launcher.crash(tmp_path / "node/replicas/replica-1")
            await until(lambda: launcher.starts == 2 and len(daemon._link._outbox) == 0)
            assert one.of(channel.DEPLOYMENT_LOGS) == []
            await until(lambda: daemon._link.epoch is None, 15)
            assert time.monotonic() - began < 10, "a silent cut is noticed in ten seconds"
            tap.swallows = False
            sent = (await until(lambda: one.of(channel.DEPLOYMENT_LOGS), 20))[0]
            assert sent["data"]["lines"] == ["why it ended"]
            assert sent["metadata"]["epoch"] == one.connects


async def _shout(daemon: Daemon) -> None:
    """One of many who have much to say: returns, whatever becomes of the link."""
    result = channel.CommandResult(original_message_id="msg-1", status="success", result={"text": "x" * 200_000})
    await daemon._link.send(channel.COMMAND_RESULT, result)
