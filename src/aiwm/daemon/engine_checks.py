"""What can be wrong with what engines run on: Docker, NVIDIA's toolkit for it, and the engines themselves."""

import os
from pathlib import Path

from aiwm.daemon.checks import Check
from aiwm.daemon.engines.triton_install import find_binary, find_version
from aiwm.daemon.floors import is_old, sentence
from aiwm.daemon.software import DOCKER_SOCKET, DockerFacts, Software

_REGISTER = "nvidia-ctk runtime configure --runtime=docker && systemctl restart docker"


def containers(
    found: Software, facts: DockerFacts | None, *, gpus: bool, socket: Path = Path(DOCKER_SOCKET)
) -> list[Check]:
    """Docker and how it is set up; a node that runs processes needs none of it."""
    runtime = found.runtime
    if runtime is None:
        if os.access(socket, os.W_OK):
            return [Check("warn", "containers", f"nobody answers on {socket}", "start it: systemctl start docker")]
        return [Check("ok", "containers", "no Docker that this user may use; engines run as processes")]
    checks = [_versioned("containers", runtime.type, runtime.version)]
    if facts is not None and runtime.type == "docker":
        checks.append(_live_restore(facts))
    return [*checks, *_toolkit(found, facts, gpus=gpus)]


def _live_restore(facts: DockerFacts) -> Check:
    if facts.live_restore:
        return Check("ok", "live-restore", "on: engines in containers outlive a restart of Docker")
    advice = 'put "live-restore": true into /etc/docker/daemon.json, then: systemctl reload docker'
    return Check("warn", "live-restore", "off: engines in containers end when Docker is restarted", advice)


def _toolkit(found: Software, facts: DockerFacts | None, *, gpus: bool) -> list[Check]:
    what = "container toolkit"
    if found.toolkit is None:
        if gpus:
            advice = f"install nvidia-container-toolkit, then: {_REGISTER}"
            return [Check("warn", what, "none, so containers get no GPUs", advice)]
        return [Check("ok", what, "none; containers get no GPUs without it")]
    checks = [_versioned(what, "toolkit", found.toolkit)]
    if gpus and facts is not None and "nvidia" not in facts.runtimes:
        checks.append(Check("warn", "nvidia runtime", "Docker does not know it, so containers get no GPUs", _REGISTER))
    return checks


def engines(setting: str, found: Software) -> list[Check]:
    """What this node can serve models with: engines of its own, or in containers where there is Docker."""
    checks = [_triton(setting, found)]
    if found.vllm is not None:
        checks.append(_versioned("vllm", "vllm", found.vllm))
    elif found.runtime is not None:
        checks.append(Check("ok", "vllm", "in containers of its image"))
    return checks


def _triton(setting: str, found: Software) -> Check:
    what, binary = "engines", find_binary(setting)
    if binary is None:
        if found.runtime is not None:
            return Check("ok", what, "Triton in containers of its image")
        if found.vllm is not None:
            return Check("ok", what, "vLLM alone; no Triton was found, and no Docker to run it in")
        advice = "install Docker, or Triton or vLLM, or name Triton's binary in AIWM_TRITON_SERVER"
        return Check("warn", what, "no Triton was found, so nothing can be deployed here", advice)
    if not os.access(binary, os.X_OK):
        return Check("fail", what, f"{binary} cannot be started", "correct AIWM_TRITON_SERVER")
    return _versioned(what, "triton", find_version(binary), f", {binary}")


def _versioned(what: str, name: str, version: str | None, more: str = "") -> Check:
    value = f"{name} {version or 'of unknown version'}{more}"
    if version is not None and is_old(name, version):
        return Check("warn", what, value, sentence(name, version))
    return Check("ok", what, value)
