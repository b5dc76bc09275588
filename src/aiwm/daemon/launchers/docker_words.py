"""What Docker says, in words that say what to do: why a container did not start, and how one ended."""

import re
import signal
from typing import Any

from aiwm.daemon.launchers.port import Ended, PortTaken
from aiwm.daemon.replicas import shorten
from aiwm.protocol.errors import AiwmError, Conflict

MACHINE_RESTARTED = Ended("ended when the machine was started again", requested=True)
DOCKER_RESTARTED = Ended(
    "ended while Docker was restarted; set live-restore in Docker's settings to keep engines running through that",
    requested=True,
)
REMOVED = Ended("is gone: its container was removed outside of AIWM")

_MIB = 2**20
_PORT = re.compile(r"port is already allocated|address already in use")
_NO_GPU_RUNTIME = re.compile(r"could not select device driver|unknown or invalid runtime name: nvidia")
_MEMLOCK = re.compile(r"rlimit|ulimit|memlock", re.IGNORECASE)
_AROUND = re.compile(
    r"(?:failed to create (?:shim )?task|OCI runtime create failed|runc create failed|error during container init"
    r"|unable to start container process): |: unknown$"
)
_CODES = {
    125: "the container could not be set up",
    126: "its command cannot be executed",
    127: "its command is not in the image",
}
_ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def start_error(message: str, image: str | None) -> AiwmError:
    """Why Docker could not create or start a container, as an error."""
    if _PORT.search(message):
        return PortTaken(f"cannot start the engine: {shorten(message)}", code="CONTAINER_START_FAILED")
    if _NO_GPU_RUNTIME.search(message):
        return Conflict(
            "cannot start the engine: Docker on this node gives containers no GPU; install nvidia-container-toolkit, "
            "then: nvidia-ctk runtime configure --runtime=docker && systemctl restart docker",
            code="GPU_NOT_AVAILABLE",
        )
    if "nvidia-container-cli" in message:
        return Conflict(f"cannot start the engine with its GPUs: {shorten(message)}", code="GPU_NOT_AVAILABLE")
    if "docker-init" in message:
        message = "Docker's docker-init is missing; install the package tini"
    return AiwmError(
        shorten(f"cannot start the engine in image {image}: {_AROUND.sub('', message)}"),
        code="CONTAINER_START_FAILED",
    )


def refuses_memlock(message: str) -> bool:
    """Whether the start may work without unlimited pinned memory."""
    return _MEMLOCK.search(message) is not None


def end_of(inspected: dict[str, Any], *, killed: int) -> Ended:
    """How a container that runs no more ended; `killed` is the signal that somebody else had it sent, 0 for none."""
    state, code = inspected["State"], int(inspected["State"]["ExitCode"])
    if state.get("OOMKilled"):
        limit = inspected["HostConfig"].get("Memory") or 0
        return Ended(
            f"was killed because it used all of its memory limit ({limit // _MIB} MiB); give it more with resources.ram"
        )
    number = code - 128
    if killed and (code == 0 or number == killed or killed in _ENDING):
        return Ended(f"was ended outside of AIWM: its container was sent {_name(killed)}")
    if state.get("Error"):
        return Ended(f"could not be started: {shorten(str(state['Error']))}")
    if 0 < number <= signal.NSIG:
        return Ended(f"was killed by signal {number} ({_name(number)})")
    about = f": {_CODES[code]}" if code in _CODES else ""
    return Ended(f"ended with code {code}{about}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"
