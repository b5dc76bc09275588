"""The demo's own installation: `aiwm up` and `aiwm node` as child processes in a folder that goes away with it."""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from aiwm.kit.settings import variables
from aiwm.protocol.errors import TimedOut, Unavailable

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_READY_SECONDS = 60.0
_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.05
# These say how this machine is, not which installation is meant.
_KEPT_SETTINGS = {"triton_server", "vllm_server", "log_level"}


class DemoStack:
    """One controller, one NOTI, one worker; nodes join as `join` starts them. Leaving it ends and removes everything.

    After a failure the logs stay, in `logs`.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aiwm-demo-"))
        self.logs = self.folder / "logs"
        self.url, self.noti_url = (f"http://127.0.0.1:{port}" for port in _free_ports())
        self._children: list[asyncio.subprocess.Process] = []
        self._lifeline, self._lifeline_writer = os.pipe()

    async def __aenter__(self) -> Self:
        self.logs.mkdir()
        try:
            await self._start()
        except BaseException:
            await self._end(keep_logs=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(keep_logs=error is not None)

    @property
    def password(self) -> str:
        """The first user's, as the first start made it."""
        return (self.folder / "data" / "admin-password").read_text().strip()

    async def join(self, token: str) -> None:
        """Starts a node daemon on this machine; its engines end with it, and both with us."""
        token_file = self.folder / "node-token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        await self._spawn(
            "node",
            (
                *("--controller-url", self.url, "--data-dir", str(self.folder / "node")),
                *("--lifeline-fd", str(self._lifeline)),
            ),
            # What is installed serves: an image would first have to come from somewhere.
            {"AIWM_NODE_TOKEN_FILE": str(token_file), "AIWM_DOCKER_HOST": "off"},
            inherit=(self._lifeline,),
        )

    async def _start(self) -> None:
        port, noti_port = (url.rpartition(":")[2] for url in (self.url, self.noti_url))
        flags = ("--no-node", "--data-dir", str(self.folder / "data"), "--port", port, "--noti-port", noti_port)
        up = await self._spawn("up", flags)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as http:
            for url in (self.url, self.noti_url):
                await self._ready(http, url, up)

    async def _ready(self, http: aiohttp.ClientSession, url: str, up: asyncio.subprocess.Process) -> None:
        deadline = asyncio.get_running_loop().time() + _READY_SECONDS
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(f"{url}/health/ready") as answer:
                    if answer.status == 200:
                        return
            if up.returncode is not None:
                raise Unavailable(f"cannot start AIWM: {self._last_line('up')}", code="START_FAILED")
            if asyncio.get_running_loop().time() > deadline:
                raise TimedOut(f"cannot start AIWM: {url} is not ready after {_READY_SECONDS:g} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def _spawn(
        self,
        command: str,
        flags: Sequence[str],
        settings: dict[str, str] | None = None,
        inherit: Sequence[int] = (),
    ) -> asyncio.subprocess.Process:
        """A child in a session of its own, so that Ctrl-C reaches only us; SIGTERM reaches it when we die."""
        own = {name for name, field in variables().items() if field not in _KEPT_SETTINGS}
        environment = {name: value for name, value in os.environ.items() if name not in own} | (settings or {})
        with (self.logs / f"{command}.log").open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "aiwm",
                command,
                *flags,
                env=environment,
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(inherit),
                preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )
        self._children.append(child)
        return child

    def _last_line(self, command: str) -> str:
        lines = (self.logs / f"{command}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"aiwm {command} ended without a word"

    async def _end(self, *, keep_logs: bool) -> None:
        """Ends what was started last first: the node and its engines, then the rest."""
        os.close(self._lifeline_writer)
        try:
            for child in reversed(self._children):
                await _stop(child)
        finally:
            os.close(self._lifeline)
            if keep_logs:
                self._collect_logs()
            await asyncio.to_thread(self._remove, keep_logs)

    def _collect_logs(self) -> None:
        for log in sorted(self.folder.rglob("*.log")):
            if log.parent != self.logs:
                shutil.copyfile(log, self.logs / "-".join(log.relative_to(self.folder).parts))

    def _remove(self, keep_logs: bool) -> None:
        for each in self.folder.iterdir():
            if each == self.logs and keep_logs:
                continue
            shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink(missing_ok=True)
        if not keep_logs:
            shutil.rmtree(self.folder, ignore_errors=True)


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await child.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])
