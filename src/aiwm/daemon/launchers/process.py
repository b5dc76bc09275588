"""Engines as processes of this machine, each under a keeper that outlives the daemon."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from yarl import URL

from aiwm.daemon import keeper
from aiwm.daemon.enginelog import last_output, read_log
from aiwm.daemon.engines.base import Engine, EnginePlan
from aiwm.daemon.launchers.identity import MARK, SPEC, end_leftovers, held, lives, state_of, written_state
from aiwm.daemon.launchers.limits import memory_limit, rlimits, scoped
from aiwm.daemon.launchers.port import NO_LIMITS, Ended, Room, Running, Tell
from aiwm.daemon.launchers.probe import all_answer
from aiwm.protocol.errors import AiwmError, Unavailable
from aiwm.protocol.node_channel import DeployCommand, LogsResult
from aiwm.protocol.resources.nodes import ConditionReport
from aiwm.protocol.states import EngineName

LOG_BYTES = 10 * 2**20
LOG_FILES = 3
_START_SECONDS = 15.0
_START_ATTEMPTS = 2
_FORCE_SECONDS = 10.0
_WRITTEN_SECONDS = 2.0
_BASE = {"LANG": "C.UTF-8"}


class ProcessLauncher:
    """Starts each engine under its keeper and knows it again by pid, kernel start time and boot.

    Before a start it makes sure that nothing of an earlier one runs; the keeper's lock then makes two impossible.

    `lifeline` is the read end of a pipe; engines end when its last writer is gone. Without it they outlive everybody.
    With `systemd_run` each engine gets a scope of its own.
    """

    names: Sequence[str] = ("process",)

    def __init__(
        self,
        engines: Mapping[EngineName, Engine],
        *,
        lifeline: int | None = None,
        systemd_run: str | None = None,
        log_bytes: int = LOG_BYTES,
        log_files: int = LOG_FILES,
    ) -> None:
        self.engines = engines
        self._lifeline = lifeline
        self._systemd_run = systemd_run
        self._log_bytes, self._log_files = log_bytes, log_files
        self._keepers: dict[Path, int] = {}
        self._heard: dict[Path, tuple[Running, tuple[str, ...]]] = {}

    def engine(self, order: DeployCommand) -> Engine | None:
        return None if order.image else self.engines.get(order.engine)

    def check(self, order: DeployCommand) -> None:
        """There is nothing that could not be allowed."""

    async def open(self) -> None:
        """What runs is on disk and in /proc, where `status` looks each time."""

    async def follow(self) -> None:
        """As for `open`."""

    def conditions(self) -> list[ConditionReport]:
        return []

    async def provide(self, plan: EnginePlan, tell: Tell) -> None:
        """Everything a process needs is here."""

    async def start(self, folder: Path, plan: EnginePlan, room: Room = NO_LIMITS) -> Running:
        workdir = folder / "work"
        workdir.mkdir(parents=True, exist_ok=True)
        scope = self._systemd_run is not None
        spec = {
            "argv": list(scoped(self._systemd_run, plan.argv, room) if self._systemd_run else plan.argv),
            "env": {**_BASE, "HOME": str(workdir), **plan.environment, **_devices(room), MARK: str(folder)},
            "cwd": str(workdir),
            "folder": str(folder),
            "scratch": list(plan.scratch),
            "rlimits": rlimits(scope=scope, root=os.geteuid() == 0),
            "memory": memory_limit(room, scope=scope),
            "ram": room.ram,
            "logBytes": self._log_bytes,
            "logFiles": self._log_files,
        }
        for _ in range(_START_ATTEMPTS):
            await self._make_way(folder)
            keeper.write_atomically(folder / SPEC, spec)
            self._keepers[folder] = self._spawn(folder)
            state = await self._started(folder, self._keepers[folder])
            # A keeper that an earlier daemon had just begun when it was killed may have been quicker.
            if state is not None or not held(folder):
                break
        if state is None or state["pid"] is None:
            reason = (state or {}).get("error", "its keeper ended at once; see keeper.err in the replica's folder")
            raise AiwmError(f"cannot start the engine: {reason}", code="CONTAINER_START_FAILED")
        return Running(pid=state["pid"], start_time=state["startTime"] or 0)

    async def _make_way(self, folder: Path) -> None:
        state = state_of(folder)
        if held(folder) or (state is not None and not state["ended"]):
            await self.stop(folder, 0)

    def _spawn(self, folder: Path) -> int:
        command = [sys.executable, "-I", "-S", keeper.__file__, str(folder / SPEC)]
        if self._lifeline is not None:
            command += ["--lifeline", str(self._lifeline)]
        inherited = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        with (folder / "keeper.err").open("wb") as errors:
            process = subprocess.Popen(
                command,
                env=inherited,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                pass_fds=() if self._lifeline is None else (self._lifeline,),
            )
        # A keeper is meant to outlive this process; Popen would complain about that, so it is told nothing is left.
        process.returncode = 0
        return process.pid

    async def _started(self, folder: Path, pid: int) -> dict[str, Any] | None:
        began = time.monotonic()
        while time.monotonic() - began < _START_SECONDS:
            ended = not self._reap(folder)
            # On a full disk nothing may be written at all: then the kernel says whether the engine runs.
            written = time.monotonic() - began < _WRITTEN_SECONDS
            state = written_state(folder) if written else state_of(folder)
            if state is not None and state["keeperPid"] == pid and (state["pid"] or state["ended"]):
                return state
            if ended:
                return None
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        raise Unavailable(
            f"cannot start the engine: its keeper did not come up within {_START_SECONDS:.0f} s", code="TIMEOUT"
        )

    def status(self, folder: Path) -> Running | Ended | None:
        for each in list(self._keepers):
            self._reap(each)
        state = state_of(folder)
        if state is None:
            return Ended("left no state that can be read") if (folder / keeper.STATE).exists() else None
        if state["ended"]:
            return Ended(_reason(folder, state), requested=state["requested"] is not None)
        if lives(state, "keeperPid", "keeperStartTime"):
            return Running(pid=state["pid"] or 0, start_time=state["startTime"] or 0)
        if state["bootId"] != keeper.boot_id():
            return Ended("ended when the machine was started again", requested=True)
        _kill_group(state)
        return Ended("ended together with its keeper, which was killed or could not write on a full disk")

    def _reap(self, folder: Path) -> bool:
        """Whether the keeper this process started runs; one that ended is taken off the process table."""
        pid = self._keepers.get(folder)
        if pid is None:
            return False
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            ended = True
        if ended:
            del self._keepers[folder]
        return not ended

    def outlives(self, folder: Path) -> bool:  # noqa: ARG002 - it is so for all
        return False

    async def ready(self, folder: Path, probes: tuple[str, ...]) -> bool:
        if not await all_answer(probes):
            return False
        status = self.status(folder)
        if not isinstance(status, Running):
            return False
        # Whose port it is needs a look at every process there is: an engine that was found to have it once keeps it.
        if self._heard.get(folder) != (status, probes):
            if not all(_listens(status.pid, URL(url).port) for url in probes):
                return False
            self._heard[folder] = (status, probes)
        return True

    async def stop(self, folder: Path, grace: float) -> None:
        self._heard.pop(folder, None)
        state = state_of(folder)
        if state is not None and isinstance(self.status(folder), Running):
            await self._end(folder, state, grace)
        deadline = time.monotonic() + _FORCE_SECONDS
        while self._reap(folder) and time.monotonic() < deadline:  # noqa: ASYNC110 - a process raises no event
            await asyncio.sleep(0.01)
        # A keeper that was killed could not end what the engine had started.
        while await asyncio.to_thread(end_leftovers, folder) and time.monotonic() < deadline:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
        keeper.clear_scratch(_scratch(folder))

    async def _end(self, folder: Path, state: Mapping[str, Any], grace: float) -> None:
        _signal_keeper(state)
        if not await self._gone(folder, grace, lambda: None):
            # The second signal is the keeper's order to use force; two at once would arrive as one, so it is repeated.
            await self._gone(folder, _FORCE_SECONDS, lambda: _signal_keeper(state))
        if isinstance(self.status(folder), Running):
            _kill_group(state_of(folder) or state)
            _signal_keeper(state, signal.SIGKILL)
            await self._gone(folder, _FORCE_SECONDS, lambda: None)

    async def _gone(self, folder: Path, seconds: float, each_time: Callable[[], None]) -> bool:
        deadline = time.monotonic() + seconds
        while isinstance(self.status(folder), Running):
            if time.monotonic() >= deadline:
                return False
            each_time()
            await asyncio.sleep(0.05)
        return True

    async def output(self, folder: Path) -> str:
        return await asyncio.to_thread(last_output, folder)

    async def logs(self, folder: Path, *, tail: int, offset: int | None) -> LogsResult:
        return await asyncio.to_thread(read_log, folder, tail=tail, offset=offset)


def _devices(room: Room) -> dict[str, str]:
    """Exactly the replica's GPUs, none when it has none, numbered as the driver numbers them."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(room.gpus)}


def _spec(folder: Path) -> dict[str, Any]:
    try:
        spec = json.loads((folder / SPEC).read_bytes())
    except (OSError, ValueError):
        return {}
    return spec if isinstance(spec, dict) else {}


def _scratch(folder: Path) -> list[str]:
    patterns = _spec(folder).get("scratch")
    return [str(each) for each in patterns] if isinstance(patterns, list) else []


def _listens(pid: int, port: int | None) -> bool:
    """Whether the engine itself has the port: an answer may come from another program that took it first."""
    try:
        engine = psutil.Process(pid)
        family = [engine, *engine.children(recursive=True)]
        open_ports = (each for process in family for each in process.net_connections("tcp"))
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in open_ports)
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


def _signal_keeper(state: Mapping[str, Any], number: int = signal.SIGTERM) -> None:
    if lives(state, "keeperPid", "keeperStartTime"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["keeperPid"], number)


def _kill_group(state: Mapping[str, Any]) -> None:
    if lives(state, "pid", "startTime"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(state["pid"], signal.SIGKILL)


def _reason(folder: Path, state: Mapping[str, Any]) -> str:
    if "error" in state:
        return f"could not be started: {state['error']}"
    if state["requested"] is not None:
        return "was ended together with what it belonged to"
    if (number := state["signal"]) is None:
        return f"ended with code {state['exitCode']}"
    return _out_of_memory(folder, state) or f"was killed by signal {number} ({_signal_name(number)})"


def _out_of_memory(folder: Path, state: Mapping[str, Any]) -> str | None:
    """The kernel kills in a scope without a word, so there it is only likely."""
    ram = _spec(folder).get("ram")
    if not ram or state["signal"] != signal.SIGKILL:
        return None
    if isinstance(used := state.get("memoryUsed"), int):
        return f"was ended for using {used // 2**20} MiB, more than its limit of {ram} MiB, which resources.ram raises"
    if _spec(folder).get("memory") is None:
        return f"was killed, probably for using more than its limit of {ram} MiB, which resources.ram raises"
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"
