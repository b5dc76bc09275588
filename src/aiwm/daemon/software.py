"""Which container software and engines this machine has, in which versions; asked shortly, and seldom."""

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiwm.daemon.engines.vllm_install import find_vllm, vllm_version
from aiwm.protocol.resources.nodes import ContainerRuntime

DOCKER_SOCKET = "/var/run/docker.sock"
_ASK_SECONDS = 2.0
_ASK_AGAIN_SECONDS = 600.0
_MOST_BYTES = 2**20
_TOOLKIT_COMMANDS = ("nvidia-ctk", "nvidia-container-toolkit")
_TOOLKIT_VERSION = re.compile(r"version:? +v?(\d\S*)")


@dataclass(frozen=True, slots=True)
class Software:
    """What was found; None for what is not there, or does not say its version to this user."""

    runtime: ContainerRuntime | None = None
    toolkit: str | None = None
    vllm: str | None = None

    def versions(self) -> list[tuple[str, str | None]]:
        """By the names that `floors` uses."""
        runtime = self.runtime or ContainerRuntime(type="none")
        return [(runtime.type, runtime.version), ("toolkit", self.toolkit), ("vllm", self.vllm)]


@dataclass(frozen=True, slots=True)
class DockerFacts:
    """How Docker is set up: whether containers outlive its daemon, and the runtimes it knows."""

    live_restore: bool
    runtimes: frozenset[str]


class Survey:
    """Looks when asked, at most every ten minutes; may block for some seconds where Docker hangs."""

    def __init__(
        self, look: Callable[[], Software] | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._look, self._monotonic = look or find_software, monotonic
        self._at: float | None = None
        self.found = Software()

    def software(self) -> Software:
        """What there is, as of the last look."""
        now = self._monotonic()
        if self._at is None or now - self._at >= _ASK_AGAIN_SECONDS:
            self.found, self._at = self._look(), now
        return self.found


def find_software(docker_host: str = "", vllm_server: str = "") -> Software:
    """Looks now, where the settings of these names say."""
    vllm = find_vllm(vllm_server)
    version = None if vllm is None else vllm_version(vllm)
    return Software(docker_runtime(docker_at(docker_host, os.environ)), toolkit_version(), version)


def docker_at(setting: str, environment: Mapping[str, str]) -> str:
    """Where Docker is asked: a URL, or `off`."""
    return setting or environment.get("DOCKER_HOST") or f"unix://{DOCKER_SOCKET}"


def docker_runtime(host: str) -> ContainerRuntime | None:
    """Who answers on Docker's socket: Docker, or Podman in its place."""
    answer = _docker(host, "/version")
    if not isinstance(answer.get("Version"), str):
        return None
    podman = "Podman Engine" in json.dumps(answer.get("Components"))
    return ContainerRuntime(type="podman" if podman else "docker", version=answer["Version"][:256])


def docker_facts(host: str) -> DockerFacts | None:
    """None where Docker does not answer, or does not say."""
    answer = _docker(host, "/info")
    live_restore, runtimes = answer.get("LiveRestoreEnabled"), answer.get("Runtimes")
    if not isinstance(live_restore, bool) or not isinstance(runtimes, dict):
        return None
    return DockerFacts(live_restore, frozenset(runtimes))


def _docker(host: str, path: str) -> dict[str, Any]:
    """What is answered on Docker's socket; empty when there is no such answer."""
    if not host.startswith("unix://"):
        return {}
    try:
        answer = _get(host.removeprefix("unix://"), path)
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ASK_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ASK_SECONDS)
        self.sock.connect(self._path)


def _get(socket_path: str, path: str) -> Any:
    connection = _UnixConnection(socket_path)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return json.loads(connection.getresponse().read(_MOST_BYTES))


def toolkit_version() -> str | None:
    """Of the NVIDIA container toolkit, as its own command says it."""
    for command in _TOOLKIT_COMMANDS:
        if (binary := shutil.which(command)) is None:
            continue
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run(
                [binary, "--version"], capture_output=True, timeout=_ASK_SECONDS, check=True, stdin=subprocess.DEVNULL
            ).stdout
            if found := _TOOLKIT_VERSION.search(said.decode(errors="replace")):
                return found.group(1)[:256]
    return None
