"""All replicas of this node: which command leads to which work, one piece of work per replica at a time."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiwm.daemon.launchers.port import Running
from aiwm.daemon.replicas import ReplicaRecord, Verdict, judge_deploy, judge_stop, report, shorten
from aiwm.daemon.runner import Runner, internal_error
from aiwm.daemon.sizes import fitted
from aiwm.kit.context import correlated, correlation_id
from aiwm.kit.tasks import Tasks
from aiwm.protocol.engine_options import check_options
from aiwm.protocol.errors import AiwmError, Conflict, Invalid
from aiwm.protocol.node_channel import (
    DeployCommand,
    DeploymentLogs,
    DeploymentStatusReport,
    EngineNumbers,
    LogsCommand,
    LogsResult,
    ReplicaReport,
    StopCommand,
)
from aiwm.protocol.resources.nodes import ConditionReport
from aiwm.protocol.states import DeploymentStatus, ReplicaState

log = logging.getLogger(__name__)

MOST_REPLICAS = 1024
_UPKEEP_SECONDS = 5.0

Settled = asyncio.Future[dict[str, object]]
Tell = Callable[[DeploymentStatusReport], Awaitable[None]]


@dataclass(slots=True)
class _Work:
    turn: asyncio.Lock
    task: "asyncio.Task[None]"
    settled: Settled


class Supervisor:
    """Owns the replicas' records. A newer piece of work on a replica ends the older one first."""

    def __init__(self, runner: Runner, tell: Tell, tasks: Tasks, gpus: Callable[[], set[str]]) -> None:
        self._runner = runner
        self._tell = tell
        self._tasks = tasks
        self._gpus = gpus
        self._records: dict[str, ReplicaRecord] = {}
        self._work: dict[str, _Work] = {}

    def inventory(self, deployment_id: str | None = None) -> list[ReplicaReport]:
        """Everything this node runs, or what of it belongs to one deployment; never too heavy for one message."""
        chosen = [record for record in self._records.values() if deployment_id in (None, record.order.deployment_id)]
        return fitted([report(record) for record in chosen])

    def conditions(self) -> list[ConditionReport]:
        """What people should know of this node's own records."""
        found = []
        if unreadable := self._runner.ledger.unreadable:
            text = "; ".join(unreadable.values())
            found.append(_condition("LedgerUnreadable", "CannotRead", f"{text}; mend or remove it, then start anew"))
        if behind := self._runner.ledger.behind:
            text = f"{behind} records wait to be written: the disk of the data folder is full or fails"
            found.append(_condition("DiskFull", "CannotWrite", text))
        return found

    def running(self) -> dict[str, Running]:
        """The engines that run now, by replica id."""
        launcher, ledger = self._runner.launcher, self._runner.ledger
        found = {replica_id: launcher.status(ledger.folder(replica_id)) for replica_id in self._records}
        return {replica_id: status for replica_id, status in found.items() if isinstance(status, Running)}

    def numbers(self) -> dict[str, EngineNumbers]:
        """What engines counted at the last look at them, by replica id."""
        counted = {replica_id: watch.counted for replica_id, watch in self._runner.watches.items()}
        return {replica_id: numbers for replica_id, numbers in counted.items() if numbers is not None}

    def resume(self) -> None:
        """Takes up what the ledger says: running engines are adopted, interrupted work goes on."""
        for record in self._runner.ledger.read():
            self._records[record.replica_id] = record
            with correlated(record.correlation_id):
                if record.state in (ReplicaState.STOPPING, ReplicaState.STOPPED):
                    self._begin(record, partial(self._end, record, None))
                elif record.state is not ReplicaState.FAILED:
                    self._begin(record, partial(self._runner.resume, record))
                elif record.logs_due:
                    reason = record.last_end or record.message or ""
                    self._tasks.spawn(f"logs of {record.replica_id}", self._runner.send_logs(record, reason))
        self._look_at_the_rest()

    def _look_at_the_rest(self) -> None:
        """Folders without a record: an engine in one is left running and said so, an empty one is removed."""
        ledger, launcher = self._runner.ledger, self._runner.launcher
        for name in [*ledger.unreadable, *ledger.without_record()]:
            running = launcher.status(ledger.folder(name))
            if isinstance(running, Running):
                known = ledger.unreadable.get(name, f"there is no ledger of replica {name}")
                ledger.unreadable[name] = f"{known}; its engine, pid {running.pid}, is left running"
                log.warning("%s", ledger.unreadable[name])
            elif name not in ledger.unreadable:
                with contextlib.suppress(AiwmError):
                    ledger.forget(name)

    async def upkeep(self) -> None:
        """Writes what a full disk kept from being written, as soon as there is room; until cancelled."""
        while True:
            await self._runner.clock.sleep(_UPKEEP_SECONDS)
            if self._runner.ledger.behind:
                self._runner.ledger.catch_up()

    def delivered(self, logs: DeploymentLogs) -> None:
        """An engine's last lines went out: no later daemon has to send them."""
        record = self._records.get(logs.replica_id)
        if record is not None and record.logs_due and record.restarts == logs.restarts:
            record.logs_due = False
            if record.state is ReplicaState.FAILED:
                self._runner.record(record)

    async def deploy(self, order: DeployCommand) -> dict[str, object]:
        """Follows `order` until its engine serves. Raises `AiwmError` when it does not come to that."""
        known = self._records.get(order.replica_id)
        verdict = judge_deploy(known, self._runner.ledger.buried(order.replica_id), order.generation)
        if verdict is Verdict.GONE:
            raise Conflict(
                f"cannot deploy replica {order.replica_id}: its generation {order.generation} was stopped",
                code="DEPLOYMENT_NOT_RUNNING",
            )
        if verdict is not Verdict.ACT and known is not None:
            note = "older than what runs; nothing was changed" if verdict is Verdict.STALE else "already so"
            return {"state": known.state, "generation": known.generation, "note": note}
        self._check(order)
        record = ReplicaRecord(order=order, state=ReplicaState.PREPARING, correlation_id=correlation_id())
        try:
            self._runner.ledger.write(record)
        except AiwmError:
            # What was refused must not be taken up by a later daemon.
            self._runner.ledger.drop(order.replica_id)
            raise
        self._records[order.replica_id] = record
        return await self._begin(record, partial(self._runner.deploy, record))

    def _check(self, order: DeployCommand) -> None:
        if order.replica_id not in self._records and len(self._records) >= MOST_REPLICAS:
            raise Conflict(
                f"cannot deploy {order.deployment_name}: this node has {MOST_REPLICAS} replicas, the most it takes",
                code="RESOURCE_EXHAUSTED",
            )
        if self._runner.launcher.engine(order) is None:
            how = f" in image {order.image}" if order.image else ""
            raise Invalid(
                f"cannot deploy {order.deployment_name}: this node cannot run engine {order.engine}{how}",
                code="COMMAND_INVALID",
            )
        self._runner.launcher.check(order)
        check_options(order.engine, order.engine_args, order.environment_variables, code="COMMAND_INVALID")
        if missing := sorted(set(order.gpu_device_ids) - self._gpus()):
            raise Conflict(
                f"cannot deploy {order.deployment_name}: this node has no GPU {', '.join(missing)}",
                code="GPU_NOT_AVAILABLE",
            )

    async def stop(self, command: StopCommand) -> dict[str, object]:
        """Stops one replica or all of a deployment, and waits until nothing of it runs."""
        chosen = [
            record
            for record in self._records.values()
            if record.order.deployment_id == command.deployment_id and command.replica_id in (None, record.replica_id)
        ]
        if not chosen:
            await self._stop_unknown(command)
            return {"stopped": [], "note": "nothing of it runs on this node"}
        acting = [record for record in chosen if judge_stop(record, command.generation) is Verdict.ACT]
        waiting = []
        for record in acting:
            record.grace_seconds = command.grace_seconds
            waiting.append(self._begin(record, partial(self._end, record, command.generation)))
        await asyncio.gather(*waiting)
        result: dict[str, object] = {"stopped": [record.replica_id for record in acting]}
        if len(acting) < len(chosen):
            result["note"] = "older than what runs; that was left as it is"
        return result

    async def _stop_unknown(self, command: StopCommand) -> None:
        """A stop that overtook its deploy must win when the deploy arrives."""
        if command.replica_id is None:
            return
        if command.generation is not None:
            self._runner.ledger.bury(command.replica_id, command.generation)
        folder = self._runner.ledger.folder(command.replica_id)
        if folder.exists() or self._runner.launcher.status(folder) is not None:
            # Its ledger could not be read, so this is the first that is heard of it.
            await self._runner.launcher.stop(folder, self._runner.policy.grace)
            await asyncio.to_thread(self._runner.ledger.forget, command.replica_id)
        await self._tell(
            DeploymentStatusReport(
                deployment_id=command.deployment_id,
                replica_id=command.replica_id,
                status=DeploymentStatus.STOPPED,
                state=ReplicaState.STOPPED,
                generation=command.generation,
            )
        )

    async def logs(self, command: LogsCommand) -> LogsResult:
        """An engine's output, also of one that failed. Raises `Conflict` for a replica that is not here."""
        if command.replica_id not in self._records:
            raise Conflict(
                f"cannot read the logs of replica {command.replica_id}: it is not on this node",
                code="DEPLOYMENT_NOT_RUNNING",
            )
        folder = self._runner.ledger.folder(command.replica_id)
        return await self._runner.launcher.logs(folder, tail=command.tail, offset=command.offset)

    async def end_engines(self, grace: float) -> None:
        """Ends every engine that does not outlive us, and changes no record: the next start brings them back."""
        for work in self._work.values():
            work.task.cancel()
        if self._work:
            await asyncio.wait([work.task for work in self._work.values()])
        launcher, folders = self._runner.launcher, map(self._runner.ledger.folder, self._records)
        await asyncio.gather(*(launcher.stop(folder, grace) for folder in folders if not launcher.outlives(folder)))

    def _begin(self, record: ReplicaRecord, work: Callable[[Settled], Coroutine[Any, Any, None]]) -> Settled:
        """Starts `work` on a replica once its previous work has ended; what it settles as is the command's result."""
        settled: Settled = asyncio.get_running_loop().create_future()
        # Nobody may be waiting for it: work taken up again at start has no command.
        settled.add_done_callback(lambda future: future.cancelled() or future.exception())
        previous = self._work.get(record.replica_id)
        turn = asyncio.Lock() if previous is None else previous.turn
        if previous is not None:
            previous.task.cancel()
            if not previous.settled.done():
                previous.settled.set_exception(
                    Conflict("cannot go on: a later command took its place", code="DEPLOYMENT_NOT_RUNNING")
                )
        task = self._tasks.spawn(f"replica {record.replica_id}", _in_turn(turn, work, settled))
        self._work[record.replica_id] = _Work(turn, task, settled)
        return settled

    async def _end(self, record: ReplicaRecord, generation: int | None, settled: Settled) -> None:
        try:
            await self._runner.stop(record, max(record.generation, generation or 0))
        except AiwmError as error:
            if not settled.done():
                settled.set_exception(error)
            return
        if self._work[record.replica_id].settled is settled:
            del self._records[record.replica_id], self._work[record.replica_id]
        if not settled.done():
            settled.set_result({})


async def _in_turn(turn: asyncio.Lock, work: Callable[[Settled], Coroutine[Any, Any, None]], settled: Settled) -> None:
    async with turn:
        try:
            await work(settled)
        except Exception:
            # A bug that one replica provokes is said as such: ending the daemon would provoke it again at each start.
            log.exception("the work on a replica ended by a bug")
            if not settled.done():
                settled.set_exception(internal_error())


def _condition(type_: str, reason: str, message: str) -> ConditionReport:
    return ConditionReport(type=type_, status=True, reason=reason, message=shorten(message))
