"""Carries one replica from its order to a serving engine, keeps it serving, and ends it.

Whatever decides by time looks at monotonic time alone, and whatever a later daemon must know is in the record: how
often the engine failed in a row, until when its restart waits, and whether its last output was sent.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

from aiwm.daemon.artifacts import Artifacts
from aiwm.daemon.disk import disk_errors
from aiwm.daemon.engines.base import Address, Engine, Ports, Trial, Verdict
from aiwm.daemon.health import SERVING, Health, Judgement, Memory, judge, starting
from aiwm.daemon.keeper import boot_id
from aiwm.daemon.launchers.port import Ended, Launcher, PortTaken, Running
from aiwm.daemon.ledger import Ledger
from aiwm.daemon.ports import ChoosePorts, choose_ports
from aiwm.daemon.replicas import (
    Moment,
    Next,
    Policy,
    ReplicaRecord,
    after_end,
    passing,
    pause_after,
    proven,
    room_of,
    shorten,
    start_limit,
    status_report,
    time_left,
)
from aiwm.daemon.sizes import last_lines
from aiwm.daemon.turns import Turns
from aiwm.daemon.watching import Trying, Watch
from aiwm.kit.clock import Clock
from aiwm.protocol.engine_options import check_options
from aiwm.protocol.errors import AiwmError, Invalid, Unavailable
from aiwm.protocol.node_channel import DeployCommand, DeploymentLogs, DeploymentStatusReport, ModelProgress
from aiwm.protocol.states import ReplicaState

log = logging.getLogger(__name__)

_PORT_ATTEMPTS = 3
_END_AGAIN_SECONDS = 2.0

Settled = asyncio.Future[dict[str, object]]
Tell = Callable[[DeploymentStatusReport | ModelProgress | DeploymentLogs], Awaitable[None]]


@dataclass(slots=True)
class Runner:
    """Does the work on replicas; what must outlive the daemon is in the ledger, `watches` are of what runs now."""

    ledger: Ledger
    launcher: Launcher
    artifacts: Artifacts
    tell: Tell
    clock: Clock
    advertise_host: str = ""
    address: Address = field(default_factory=Address)
    policy: Policy = field(default_factory=Policy)
    choose_ports: ChoosePorts = choose_ports
    draw: Callable[[float, float], float] = random.uniform
    boot: str = field(default_factory=boot_id)
    cuda_name: Callable[[str], str] = str
    watches: dict[str, Watch] = field(default_factory=dict)
    turns: Turns = field(default_factory=Turns)

    async def deploy(self, record: ReplicaRecord, settled: Settled) -> None:
        """From nothing to a serving engine, and on: returns only when the replica has failed for good."""
        await self._end(record, self.policy.grace)
        try:
            await asyncio.to_thread(self.ledger.clear, record.replica_id)
        except AiwmError as error:
            await self._fail(record, settled, error)
            return
        await self._move(record, ReplicaState.PREPARING, "fetching the model")
        await self._serve(record, settled, ended=None)

    async def resume(self, record: ReplicaRecord, settled: Settled) -> None:
        """Goes on where an earlier daemon was; a running engine is adopted as it is."""
        status = self.launcher.status(self.ledger.folder(record.replica_id))
        if record.state in (ReplicaState.PENDING, ReplicaState.PREPARING):
            await self.deploy(record, settled)
        elif isinstance(status, Running):
            log.info("adopted the engine of replica %s, pid %s", record.replica_id, status.pid)
            record.restart_due = None
            ended = await self._watch(record) if record.state is not ReplicaState.STARTING else None
            await self._serve(record, settled, ended=ended)
        elif record.restart_due is not None or (status is None and record.state is ReplicaState.STARTING):
            # Its end was counted by the daemon before, or it never began.
            await self._serve(record, settled, ended=None)
        else:
            await self._serve(record, settled, ended=status or Ended("was gone when the daemon came back"))

    async def stop(self, record: ReplicaRecord, generation: int) -> None:
        """Ends the engine and forgets the replica. No deploy up to `generation` brings it back."""
        await self._move(record, ReplicaState.STOPPING, "stopping")
        grace = self.policy.grace if record.grace_seconds is None else record.grace_seconds
        await self._end(record, grace)
        try:
            self.ledger.bury(record.replica_id, generation)
        except AiwmError as error:
            # The folder is what fills the disk: removing it comes before remembering that, and may make it possible.
            log.warning("%s; it is removed all the same", error.message)
        record.endpoint, record.port, record.health = None, None, None
        await self._move(record, ReplicaState.STOPPED, None)
        await asyncio.to_thread(self.ledger.forget, record.replica_id)
        self.ledger.catch_up()

    async def _end(self, record: ReplicaRecord, grace: float) -> None:
        """Ends the engine, however long what runs it is away: nothing is called ended that may still run."""
        while True:
            try:
                await self.launcher.stop(self.ledger.folder(record.replica_id), grace)
            except AiwmError as error:
                await self._move(record, record.state, f"{error.message}; it is tried until it works")
                await self.clock.sleep(_END_AGAIN_SECONDS)
            else:
                return

    async def send_logs(self, record: ReplicaRecord, reason: str) -> None:
        """Sends the last lines of an engine that ended: they are the reason people look for, also without the node."""
        output = await self.launcher.output(self.ledger.folder(record.replica_id))
        report = DeploymentLogs(
            deployment_id=record.order.deployment_id,
            replica_id=record.replica_id,
            generation=record.generation,
            restarts=record.restarts,
            reason=shorten(reason),
            lines=last_lines(output),
        )
        await self.tell(report)

    async def _serve(self, record: ReplicaRecord, settled: Settled, ended: Ended | None) -> None:
        """Starts, watches and starts again. `ended` is how the engine that served before came to its end."""
        try:
            if ended is not None:
                await self._after_end(record, ended, served=True)
            while True:
                await self._wait_for_restart(record)
                failure = await self._start_again(record)
                if failure is None:
                    await self._ready(record, settled)
                    await self._after_end(record, await self._watch(record), served=True)
                elif isinstance(failure, Ended):
                    await self._after_end(record, failure, served=False)
        except AiwmError as error:
            await self._fail(record, settled, error)

    async def _fail(self, record: ReplicaRecord, settled: Settled, error: AiwmError) -> None:
        """A failed replica runs nothing; its folder stays, for its logs."""
        await self._end(record, self.policy.grace)
        record.endpoint, record.health, record.restart_due = None, None, None
        await self._move(record, ReplicaState.FAILED, error.message)
        if not settled.done():
            settled.set_exception(error)

    async def _start_again(self, record: ReplicaRecord) -> Ended | AiwmError | None:
        """None once the engine serves. What hinders the node from starting it a second time is waited out."""
        try:
            return await self._until_ready(record)
        except AiwmError as error:
            # A first deploy fails at once: the controller is waiting to hear why.
            if record.started_at is None or not passing(error.code, retryable=error.retryable):
                raise
            log.warning("replica %s cannot be started again yet: %s", record.replica_id, error.message)
            await self._pause(record, pause_after(max(record.failures, 1), self.policy, self.draw), error.message)
            return error

    async def _until_ready(self, record: ReplicaRecord) -> Ended | None:
        """None once the engine serves. Raises `AiwmError`, also for a bug that this replica's files provoke."""
        engine = self.launcher.engine(record.order)
        if engine is None:
            raise Invalid(f"cannot run {record.order.engine}: this node no longer has it", code="COMMAND_INVALID")
        try:
            async with self.turns.taken(record.order):
                return await self._started(record, engine)
        except AiwmError:
            raise
        except Exception as bug:
            log.exception("starting replica %s ended by a bug", record.replica_id)
            raise internal_error() from bug

    async def _started(self, record: ReplicaRecord, engine: Engine) -> Ended | None:
        """None once the engine serves; a lost race for a port is run again with other ports."""
        folder = self.ledger.folder(record.replica_id)
        for _ in range(_PORT_ATTEMPTS):
            with contextlib.suppress(PortTaken):
                if not isinstance(self.launcher.status(folder), Running):
                    await self._start(record, engine)
                failure = await self._wait_ready(record, engine)
                if failure is None or not engine.port_taken(await self.launcher.output(folder)):
                    return failure
            log.warning("replica %s lost port %s to another program", record.replica_id, record.port)
        return Ended(f"could not listen: port {record.port} is already taken on the node")

    async def _start(self, record: ReplicaRecord, engine: Engine) -> None:
        order, folder = record.order, self.ledger.folder(record.replica_id)
        # An order may be from before the rules.
        check_options(order.engine, order.engine_args, order.environment_variables, code="COMMAND_INVALID")
        artifact = await self.artifacts.fetch(order.artifact, self._progress(record))
        ports, seen = self._free_ports(), self._seen(order)
        workspace = folder / "workspace"
        with disk_errors(f"cannot start {order.engine}"):
            # A container is given both folders, also where its engine lays nothing out.
            workspace.mkdir(parents=True, exist_ok=True)
            plan = await asyncio.to_thread(engine.prepare, seen, artifact, workspace, ports, self.address)
        await self.launcher.provide(plan, partial(self._move, record, ReplicaState.PREPARING))
        record.port, record.probes, record.metrics = ports.http, list(plan.ready), plan.metrics
        record.endpoint = f"http://{self.advertise_host or self.address.local}:{ports.http}"
        record.restart_due = None
        record.health = Health.STARTED
        await self._move(record, ReplicaState.STARTING, f"starting {order.engine}")
        with disk_errors(f"cannot start {order.engine}"):
            self.ledger.copy(record)
            running = await self.launcher.start(folder, plan, room_of(seen, (artifact, workspace)))
        log.info("started %s for replica %s, pid %s", order.engine, record.replica_id, running.pid)

    def _free_ports(self) -> Ports:
        try:
            return self.choose_ports(self.address)
        except OSError as error:
            # The interface of that address may be a tunnel that is down for now.
            raise Unavailable(
                f"cannot listen on {self.address.bind}: {error.strerror}", code="NETWORK_ERROR"
            ) from error

    def _seen(self, order: DeployCommand) -> DeployCommand:
        """The order with its GPUs under the names that the engine must use for them."""
        names = [self.cuda_name(each) for each in order.gpu_device_ids]
        return order.model_copy(update={"gpu_device_id": ",".join(names), "gpu_device_ids": names})

    async def _wait_ready(self, record: ReplicaRecord, engine: Engine) -> Ended | None:
        """None once the engine serves and a tiny request to it was tried."""
        folder, watch = self.ledger.folder(record.replica_id), self._watch_of(record, engine)
        began = told = self.clock.monotonic()
        limit = start_limit(record.order.artifact, self.policy)
        async with Trying(watch) as trying:
            while True:
                ready, status = await watch.ready(), self.launcher.status(folder)
                if (trial := trying.result()) is not None:
                    return await self._tried(record, trial)
                if not isinstance(status, Running):
                    return status or Ended("was never started")
                if (left := began + limit - self.clock.monotonic()) <= 0:
                    await self._end(record, self.policy.grace)
                    what = "answer a trial request" if ready else "become ready"
                    return Ended(f"did not {what} within {limit:.0f} s", explained=ready)
                if ready:
                    trying.begin(left)
                if self.clock.monotonic() - told >= self.policy.tell_interval:
                    told = self.clock.monotonic()
                    await self._say(record, starting(await watch.answer(), told - began, limit), ReplicaState.STARTING)
                await self.clock.sleep(0.1)

    async def _tried(self, record: ReplicaRecord, trial: Trial) -> Ended | None:
        if trial.verdict is Verdict.FAILED:
            await self._end(record, self.policy.grace)
            return Ended(f"answered a trial request with an error: {trial.words}", explained=True)
        record.trouble = trial.words if trial.verdict is Verdict.DOUBTED else None
        return None

    async def _ready(self, record: ReplicaRecord, settled: Settled) -> None:
        judgement = judge(Memory(tried_at=self.clock.monotonic(), trouble=record.trouble), self.policy)
        again = f"; started again because the engine {record.last_end}" if record.last_end else ""
        record.started_at, record.served_from = self.clock.now(), self._now()
        await self._say(record, replace(judgement, words=judgement.words + again), ReplicaState.RUNNING)
        if not settled.done():
            settled.set_result({"state": record.state, "endpoint": record.endpoint, "containerPort": record.port})

    async def _watch(self, record: ReplicaRecord) -> Ended:
        """Until the engine ends or hangs for too long; says when it stops serving well, and when it does again."""
        folder, policy = self.ledger.folder(record.replica_id), self.policy
        watch = self._watch_of(record, self.launcher.engine(record.order))
        next_look = self.clock.monotonic() + policy.probe_interval
        self.watches[record.replica_id] = watch
        first = self.launcher.status(folder)
        try:
            while isinstance(status := self.launcher.status(folder), Running):
                if isinstance(first, Running) and status != first and 0 not in (status.pid, first.pid):
                    # It has to load its model again before it serves.
                    return Ended("was started again by somebody else", requested=True)
                if record.failures and proven(record, self._now(), policy):
                    record.failures = 0
                    self.record(record)
                if self.clock.monotonic() >= next_look:
                    judgement = await watch.look()
                    next_look = self.clock.monotonic() + policy.probe_interval
                    if judgement.given_up:
                        await self._end(record, policy.grace)
                        return Ended(f"was hung: {judgement.words}")
                    await self._judged(record, watch, judgement, status.note)
                await self.clock.sleep(policy.watch_interval)
        finally:
            del self.watches[record.replica_id]
        return status or Ended("is gone without a trace")

    def _watch_of(self, record: ReplicaRecord, engine: Engine | None) -> Watch:
        folder = self.ledger.folder(record.replica_id)
        return Watch(record, engine, self.launcher, folder, self.clock, self.policy, self.address.local)

    async def _judged(self, record: ReplicaRecord, watch: Watch, judgement: Judgement, note: str | None) -> None:
        """Says what changed; `note` is what else is known of an engine that does not serve."""
        if (judgement.health, watch.memory.trouble) == (record.health, record.trouble):
            return
        record.trouble = watch.memory.trouble
        serves = judgement.health in SERVING
        if judgement.health is Health.HEALTHY:
            judgement = replace(judgement, words="serving again")
        elif note and not serves:
            judgement = replace(judgement, words=f"{judgement.words}; {note}")
        await self._say(record, judgement, ReplicaState.RUNNING if serves else ReplicaState.UNHEALTHY)

    async def _say(self, record: ReplicaRecord, judgement: Judgement, state: ReplicaState) -> None:
        record.health = judgement.health
        await self._move(record, state, shorten(judgement.words))

    async def _after_end(self, record: ReplicaRecord, ended: Ended, *, served: bool) -> None:
        """Returns when the engine is to be started again; raises `AiwmError` when that has no prospect."""
        record.health, record.endpoint, record.served_from = "unhealthy", None, None
        if ended.requested:
            record.last_end = shorten(ended.reason)
            await self._move(record, ReplicaState.STARTING, f"the engine {ended.reason}; starting it again at once")
            return
        reason = await self._explain(record, ended)
        step, record.failures = after_end(served=served, failures=record.failures, policy=self.policy)
        record.last_end, record.logs_due = shorten(reason), True
        await self.send_logs(record, reason)
        if step is Next.FAIL:
            again = f" (failed {record.failures} times in a row)" if record.failures > 1 else ""
            raise AiwmError(
                shorten(f"cannot run {record.order.engine}: {reason}{again}"), code="CONTAINER_START_FAILED"
            )
        record.restarts += 1
        pause = pause_after(record.failures, self.policy, self.draw)
        message = f"the engine {reason}; starting it again in {pause:.0f} s (restart {record.restarts})"
        await self._pause(record, pause, message)

    async def _pause(self, record: ReplicaRecord, seconds: float, message: str) -> None:
        """Says that the next start waits, and for how long, so that a later daemon waits for what is left of it."""
        record.restart_due = Moment(boot_id=self.boot, at=self.clock.monotonic() + seconds)
        await self._move(record, ReplicaState.STARTING, shorten(message))

    async def _wait_for_restart(self, record: ReplicaRecord) -> None:
        if record.restart_due is not None:
            await self.clock.sleep(time_left(record.restart_due, self._now(), self.policy))

    def _now(self) -> Moment:
        return Moment(boot_id=self.boot, at=self.clock.monotonic())

    async def _explain(self, record: ReplicaRecord, ended: Ended) -> str:
        engine = self.launcher.engine(record.order)
        output = await self.launcher.output(self.ledger.folder(record.replica_id))
        own = engine.explain(output) if engine is not None and not ended.explained else None
        return f"{ended.reason}: {own}" if own else ended.reason

    def _progress(self, record: ReplicaRecord) -> Callable[[int, int, int], Awaitable[None]]:
        async def tell(done: int, total: int, files: int) -> None:
            order = record.order
            await self.tell(
                ModelProgress(
                    model_id=order.model_id,
                    deployment_id=order.deployment_id,
                    replica_id=order.replica_id,
                    bytes_done=done,
                    bytes_total=total,
                    files=files,
                )
            )

        return tell

    async def _move(self, record: ReplicaRecord, state: ReplicaState, message: str | None) -> None:
        record.state, record.message = state, message
        if state is not ReplicaState.STOPPED:
            self.record(record)
        log.info(
            "replica %s of %s is %s", record.replica_id, record.order.deployment_name, state, extra={"reason": message}
        )
        await self.tell(status_report(record))

    def record(self, record: ReplicaRecord) -> None:
        """Writes it, now or when the disk takes it again."""
        try:
            self.ledger.write(record)
        except AiwmError as error:
            # What the engine does is in its keeper's hands; a later daemon reads an older step and looks for itself.
            log.warning("%s", error.message)


def internal_error() -> AiwmError:
    """What a bug is called towards others; the log has it whole."""
    return AiwmError("cannot go on: internal error of the daemon; its log says which", code="INTERNAL_ERROR")
