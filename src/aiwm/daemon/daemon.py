"""The daemon put together: one link, the commands that come over it, the replicas they are about, and telemetry."""

import asyncio
import logging
from functools import partial
from pathlib import Path

from aiwm import __version__
from aiwm.daemon.artifacts import Artifacts
from aiwm.daemon.clockwatch import ClockWatch
from aiwm.daemon.commands import Commands
from aiwm.daemon.credential import Credential
from aiwm.daemon.floors import merged, old_software
from aiwm.daemon.join import Joiner
from aiwm.daemon.launchers.port import Launcher
from aiwm.daemon.launching import launchers
from aiwm.daemon.ledger import Ledger
from aiwm.daemon.link import Link, base_url
from aiwm.daemon.ports import ChoosePorts, choose_ports, listen_address
from aiwm.daemon.replicas import Policy
from aiwm.daemon.runner import Runner
from aiwm.daemon.software import Survey, find_software
from aiwm.daemon.supervisor import Supervisor
from aiwm.daemon.suppress import Suppression
from aiwm.daemon.tally import Tally
from aiwm.daemon.telemetry import SystemTelemetry, Telemetry, judge_health, with_engines
from aiwm.kit.clock import Clock, SystemClock
from aiwm.kit.ids import new_id
from aiwm.kit.machine import machine_mark
from aiwm.kit.settings import Settings
from aiwm.kit.tasks import Tasks
from aiwm.kit.trust import trusting
from aiwm.protocol import node_channel as channel
from aiwm.protocol.base import Wire
from aiwm.protocol.resources.nodes import ConditionReport, EngineFact
from aiwm.protocol.states import EngineName

log = logging.getLogger(__name__)

_LIFELINE_GRACE_SECONDS = 4.0
_SHORTEST_INTERVAL_SECONDS = 0.05


def node_dir(settings: Settings) -> Path:
    """Where the daemon keeps what is its own."""
    return settings.data_dir / "node"


class Daemon:
    """One node. A simulated node differs only in `launcher` and `telemetry`.

    `lifeline` is the read end of a pipe whose writers' death ends the daemon and its engines.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        launcher: Launcher | None = None,
        telemetry: Telemetry | None = None,
        clock: Clock | None = None,
        policy: Policy | None = None,
        choose: ChoosePorts = choose_ports,
        lifeline: int | None = None,
        joiner: Joiner | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._lifeline = lifeline
        url = base_url(settings.controller_url)
        survey = Survey(partial(find_software, settings.docker_host, settings.vllm_server))
        self._telemetry = telemetry or SystemTelemetry(settings.data_dir, node_dir(settings), url, survey)
        self._launcher = launcher or launchers(settings, node_dir(settings), lifeline, self._telemetry.gpu_memory)
        self._advertise_host = settings.advertise_host
        credential = Credential(node_dir(settings), settings.node_token)
        trust = trusting(settings.tls_ca)
        self._instance = new_id("instance")
        self._offered: tuple[frozenset[str], frozenset[EngineName]] | None = None
        self._stopping = asyncio.Event()
        self._heartbeat_seconds = channel.HEARTBEAT_INTERVAL_MS / 1000
        self._metrics_seconds = channel.METRICS_INTERVAL_MS / 1000
        self._clock_watch = ClockWatch()
        self._suppression = Suppression()
        self._tasks = Tasks()
        self.tally = Tally()
        self._runner = Runner(
            ledger=Ledger(node_dir(settings)),
            launcher=self._launcher,
            artifacts=Artifacts(node_dir(settings) / "artifacts", url, credential, self._clock, trust=trust),
            tell=self._tell,
            clock=self._clock,
            advertise_host=settings.advertise_host,
            address=listen_address(settings.advertise_host),
            policy=policy or Policy(),
            choose_ports=choose,
            cuda_name=self._telemetry.cuda_name,
        )
        self._supervisor = Supervisor(self._runner, self._tell, self._tasks, self._telemetry.gpu_ids)
        self._link = Link(
            url,
            credential,
            clock=self._clock,
            inventory=self._register,
            receive=self._receive,
            registered=self._set_intervals,
            tally=self.tally,
            delivered=self._delivered,
            instance=self._instance,
            trust=trust,
            readmit=None if joiner is None else joiner.again,
        )
        self._commands = Commands(
            {
                channel.COMMAND_DEPLOY: self._deploy,
                channel.COMMAND_STOP: self._stop,
                channel.COMMAND_HEALTH_CHECK: self._health_check,
                channel.COMMAND_LOGS: self._logs,
            },
            self._link.send,
            self._tasks,
            self.tally,
            epoch=lambda: self._link.epoch,
        )

    def stop(self) -> None:
        """Ends `run`; engines go on, but for those on a lifeline."""
        self._stopping.set()

    async def run(self) -> None:
        """Serves until `stop`. Raises what a background task died of."""
        if self._lifeline is not None:
            asyncio.get_running_loop().add_reader(self._lifeline, self.stop)
        async with self._tasks:
            await self._launcher.open()
            self._tasks.spawn("launcher", self._launcher.follow())
            self._supervisor.resume()
            self._tasks.spawn("link", self._link.run())
            self._tasks.spawn("upkeep", self._supervisor.upkeep())
            self._tasks.spawn("heartbeats", self._beat())
            self._tasks.spawn("metrics", self._measure())
            await self._until_stopped()
            if self._lifeline is not None:
                asyncio.get_running_loop().remove_reader(self._lifeline)
                await self._supervisor.end_engines(_LIFELINE_GRACE_SECONDS)
        if self._tasks.error is not None:
            raise self._tasks.error

    async def _until_stopped(self) -> None:
        waiting = [asyncio.create_task(event.wait()) for event in (self._stopping, self._tasks.failed)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    def _receive(self, event: str, body: object) -> None:
        self._commands.receive(event, body)

    def _offers(self) -> tuple[frozenset[str], frozenset[EngineName]]:
        return frozenset(self._launcher.names), frozenset(self._launcher.engines)

    async def _register(self) -> channel.NodeRegister:
        facts = await asyncio.to_thread(self._telemetry.facts)
        self._offered = self._offers()
        # From here on nothing is waited for: what runs is said as it is when the message goes out.
        return facts.model_copy(
            update={
                "launchers": list(self._launcher.names),
                "engines": self._engines(),
                "conditions": self._conditions(),
                "daemon_version": __version__,
                "advertise_host": self._advertise_host or None,
                "machine": machine_mark(),
                "instance": self._instance,
                "replicas": self._supervisor.inventory(),
            }
        )

    def _engines(self) -> list[EngineFact]:
        return [EngineFact(name=name, version=engine.version()) for name, engine in self._launcher.engines.items()]

    def _conditions(self) -> list[ConditionReport]:
        """All that this node judges itself; of each type one, and none of what is well."""
        engines = old_software((each.name, each.version) for each in self._engines())
        watched = self._clock_watch.conditions(self._clock.monotonic())
        return merged(
            [
                *self._telemetry.conditions(),
                *self._supervisor.conditions(),
                *self._launcher.conditions(),
                *engines,
                *watched,
            ]
        )

    def _set_intervals(self, controller: channel.ControllerInfo) -> None:
        self._suppression.begin()
        self._heartbeat_seconds = max(_SHORTEST_INTERVAL_SECONDS, controller.heartbeat_interval / 1000)
        self._metrics_seconds = max(_SHORTEST_INTERVAL_SECONDS, controller.metrics_interval / 1000)

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(self._heartbeat_seconds)
            health = judge_health(await self._telemetry.read({}))
            self._clock_watch.look(self._clock.now(), self._clock.monotonic())
            beat = channel.Heartbeat(
                timestamp=self._clock.now(),
                status=health,
                uptime_seconds=self._telemetry.uptime(),
                conditions=self._conditions(),
            )
            await self._link.send(channel.HEARTBEAT, beat)
            if self._offered != self._offers():
                # Docker came, or is gone for good: what can be placed here is another now.
                await self._link.register_again()

    async def _measure(self) -> None:
        while True:
            await self._clock.sleep(self._metrics_seconds)
            measured, now = await self._telemetry.read(self._supervisor.running()), self._clock.monotonic()
            metrics = with_engines(measured, self._supervisor.numbers())
            if self._suppression.due(metrics, now) and await self._link.send(channel.METRICS, metrics):
                self._suppression.sent(metrics, now)

    def _delivered(self, news: Wire) -> None:
        if isinstance(news, channel.DeploymentLogs):
            self._supervisor.delivered(news)

    async def _tell(
        self, news: channel.DeploymentStatusReport | channel.ModelProgress | channel.DeploymentLogs
    ) -> None:
        if isinstance(news, channel.DeploymentLogs):
            self._link.post(channel.DEPLOYMENT_LOGS, news.replica_id, news, generation=news.generation)
        elif isinstance(news, channel.ModelProgress):
            await self._link.send(channel.MODEL_PROGRESS, news)
        else:
            await self._link.send(channel.DEPLOYMENT_STATUS, news, generation=news.generation)

    async def _deploy(self, data: dict[str, object]) -> dict[str, object]:
        return await self._supervisor.deploy(channel.DeployCommand.model_validate(data))

    async def _stop(self, data: dict[str, object]) -> dict[str, object]:
        return await self._supervisor.stop(channel.StopCommand.model_validate(data))

    async def _logs(self, data: dict[str, object]) -> dict[str, object]:
        command = channel.LogsCommand.model_validate(data)
        return (await self._supervisor.logs(command)).to_wire()

    async def _health_check(self, data: dict[str, object]) -> dict[str, object]:
        command = channel.HealthCheckCommand.model_validate(data)
        health = judge_health(await self._telemetry.read({}))
        replicas = self._supervisor.inventory(command.deployment_id)
        return channel.HealthCheckResult(status=health, replicas=replicas).to_wire()
