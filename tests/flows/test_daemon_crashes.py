"""Engines that end again and again, on clocks that jump, under daemons that end too: counted once, waited for, told."""

import asyncio
import errno
import itertools
import json
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.daemon_support import QUICK, Controller, controller, order, running, settings_for, until

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.base import Address, EnginePlan, Ports
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.daemon.launchers.port import NO_LIMITS, Room, Running
from aiwm.daemon.ports import choose_ports
from aiwm.kit.clock import SystemClock
from aiwm.protocol import node_channel as channel


class JumpingClock(SystemClock):
    """Wall time that is an hour early or late, differently each time it is asked."""

    def __init__(self) -> None:
        self._jumps = itertools.cycle([0, 3600, -3600, 7200, -7200])

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=next(self._jumps))


class FullDisk(FakeLauncher):
    """Starts nothing while `full`."""

    full = False

    async def start(self, folder: Path, plan: EnginePlan, room: Room = NO_LIMITS) -> Running:
        if self.full:
            self.starts += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return await super().start(folder, plan, room)


def folder_of(data_dir: Path) -> Path:
    return data_dir / "node/replicas/replica-1"


def recorded(data_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder_of(data_dir) / "ledger.json").read_text())
    return content


async def deployed(one: Controller) -> None:
    await until(lambda: one.of(channel.NODE_REGISTER))
    result = await one.result(await one.command("command.deploy", order().to_wire()))
    assert result["status"] == "success", result


async def serving(one: Controller, times: int) -> None:
    """Waits until the engine began to serve that often."""
    await until(lambda: one.states("replica-1").count("running") == times)


async def told_of_ends(one: Controller, count: int) -> None:
    await until(lambda: len(one.of(channel.DEPLOYMENT_LOGS)) == count)


async def test_a_crash_loop_ends_in_failed_and_every_end_left_its_lines(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    policy = replace(QUICK, most_failures=3)
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=policy)):
        await deployed(one)
        for number in range(4):
            await until(lambda: isinstance(launcher.seen.get(folder_of(tmp_path)), Running))
            await serving(one, number + 1)
            launcher.written = f"words of end {number}\n"
            launcher.crash(folder_of(tmp_path), f"ended with code {number}")
            await told_of_ends(one, number + 1)
        await until(lambda: one.states("replica-1")[-1] == "failed")
        ends = [each["data"] for each in one.of(channel.DEPLOYMENT_LOGS)]
        assert [(each["restarts"], each["lines"]) for each in ends] == [
            (number, [f"words of end {number}"]) for number in range(4)
        ]
        assert "failed 4 times in a row" in one.of(channel.DEPLOYMENT_STATUS)[-1]["data"]["message"]
        assert launcher.starts == 4


async def test_a_daemon_that_is_started_again_goes_on_with_the_pause_and_counts_nothing_twice(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    policy = replace(QUICK, first_restart=3, longest_restart=3)
    async with controller() as one:
        async with running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=policy)):
            await deployed(one)
            launcher.crash(folder_of(tmp_path))
            await until(lambda: one.states("replica-1")[-1] == "starting" and len(one.states("replica-1")) == 4)
        due = recorded(tmp_path)["restartDue"]["at"]
        for _ in range(3):
            one.messages.clear()
            async with running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=policy)):
                register = (await until(lambda: one.of(channel.NODE_REGISTER)))[0]["data"]
                assert [(each["state"], each["restarts"]) for each in register["replicas"]] == [("starting", 1)]
                assert (recorded(tmp_path)["failures"], launcher.starts) == (1, 1)
        one.messages.clear()
        async with running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=policy)):
            await until(lambda: "running" in one.states("replica-1"))
            assert time.monotonic() >= due
            assert (recorded(tmp_path)["failures"], launcher.starts) == (1, 2)


async def test_failures_are_forgotten_by_time_served_and_by_no_clock_on_the_wall(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    policy = replace(QUICK, stable=1.5)
    async with controller() as one:
        daemon = Daemon(settings_for(one, tmp_path), launcher=launcher, policy=policy, clock=JumpingClock())
        async with running(daemon):
            await deployed(one)
            for count in (1, 2):
                launcher.crash(folder_of(tmp_path))
                await serving(one, count + 1)
                assert recorded(tmp_path)["failures"] == count
            served = time.monotonic()
            await until(lambda: recorded(tmp_path)["failures"] == 0)
            assert time.monotonic() - served >= 1
        # A later daemon knows since when the engine has served, whatever its clock says.
        launcher.crash(folder_of(tmp_path))
        one.messages.clear()
        again = Daemon(settings_for(one, tmp_path), launcher=launcher, policy=policy, clock=JumpingClock())
        async with running(again):
            await until(lambda: "running" in one.states("replica-1"))
            assert recorded(tmp_path)["failures"] == 1


async def test_a_disk_that_is_full_fails_a_deploy_and_only_delays_a_restart(tmp_path: Path) -> None:
    launcher = FullDisk()
    policy = replace(QUICK, most_failures=1)
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=policy)):
        await until(lambda: one.of(channel.NODE_REGISTER))
        launcher.full = True
        refused = await one.result(await one.command("command.deploy", order().to_wire()))
        assert refused["error"]["code"] == "RESOURCE_EXHAUSTED"
        assert one.states("replica-1")[-1] == "failed"
        launcher.full = False
        await deployed(one)
        launcher.full, launcher.starts = True, 0
        launcher.crash(folder_of(tmp_path))
        await until(lambda: launcher.starts >= 4)
        assert "running" not in one.states("replica-1")[-4:]
        assert any("No space left" in each for each in messages(one)[-3:])
        launcher.full = False
        await until(lambda: one.states("replica-1")[-1] == "running")
        assert recorded(tmp_path)["failures"] == 1


async def test_an_address_that_is_gone_for_a_while_delays_a_restart_and_ends_nothing(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    down = asyncio.Event()

    def choose(address: Address) -> Ports:
        if down.is_set():
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return choose_ports(address)

    async with controller() as one:
        daemon = Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK, choose=choose)
        async with running(daemon):
            await deployed(one)
            down.set()
            launcher.crash(folder_of(tmp_path))
            await until(lambda: any("Cannot assign" in each for each in messages(one)))
            down.clear()
            await until(lambda: one.states("replica-1").count("running") == 2)


def messages(one: Controller) -> list[str]:
    return [each["data"].get("message", "") for each in one.of(channel.DEPLOYMENT_STATUS)]


async def test_lines_that_a_daemon_could_not_send_are_sent_by_the_next_and_only_once(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    launcher.written = "why it ended\n"
    policy = replace(QUICK, most_failures=0)
    async with controller() as one:
        async with running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=policy)):
            await deployed(one)
            await one.close()
            launcher.crash(folder_of(tmp_path))
            await until(lambda: recorded(tmp_path)["state"] == "failed")
        assert recorded(tmp_path)["logsDue"] is True
        await one.start()
        one.messages.clear()
        async with running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=policy)):
            sent = (await until(lambda: one.of(channel.DEPLOYMENT_LOGS)))[0]["data"]
            assert (sent["reason"], sent["lines"]) == ("ended with code 1", ["why it ended"])
            await until(lambda: recorded(tmp_path)["logsDue"] is False)
        one.messages.clear()
        async with running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=policy)):
            await until(lambda: one.of(channel.NODE_REGISTER))
            await one.result(await one.command("command.healthCheck", {}))
            assert one.of(channel.DEPLOYMENT_LOGS) == []


async def test_an_engine_that_an_upgrade_took_away_fails_its_replica_and_not_the_daemon(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    async with controller() as one:
        async with running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK)):
            await deployed(one)
        launcher.crash(folder_of(tmp_path))
        launcher.engines = {}
        one.messages.clear()
        async with running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK)):
            await until(lambda: "failed" in one.states("replica-1"))
            assert "this node no longer has it" in messages(one)[-1]
            assert (await one.result(await one.command("command.healthCheck", {})))["status"] == "success"
