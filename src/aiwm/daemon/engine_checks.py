"""What can be wrong with what engines run on: Docker, NVIDIA's toolkit for it, and the engines themselves."""

import os
from pathlib import Path

from aiwm.daemon.checks import Check
from aiwm.daemon.engines.triton_install import find_binary, find_version
from aiwm.daemon.engines.vllm_install import find_vllm
from aiwm.daemon.floors import is_old, sentence
from aiwm.daemon.software import DockerFacts, Software
from aiwm.kit.settings import Settings

_REGISTER = "nvidia-ctk runtime configure --runtime=docker && systemctl restart docker"


def containers(docker: str, found: Software, facts: DockerFacts | None, *, gpus: bool) -> list[Check]:
    """Docker at `docker` and how it is set up; a node that runs processes needs none of it."""
    runtime = found.runtime
    if docker == "off":
        return [Check("ok", "containers", "none, as AIWM_DOCKER_HOST is off; engines run as processes")]
    if runtime is None:
        if os.access(docker.removeprefix("unix://"), os.W_OK):
            return [Check("warn", "containers", f"nobody answers on {docker}", "start it: systemctl start docker")]
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


def engines(settings: Settings, found: Software) -> list[Check]:
    """What this node can serve models with: engines of its own, or in containers where there is Docker."""
    triton, vllm = find_binary(settings.triton_server), find_vllm(settings.vllm_server)
    if triton is None and vllm is None and found.runtime is None:
        advice = "install Docker, Triton or vLLM, or name what there is in AIWM_TRITON_SERVER or AIWM_VLLM_SERVER"
        return [Check("warn", "engines", "none was found, so nothing can be deployed here", advice)]
    version = None if triton is None else find_version(triton)
    return [
        _engine("triton", triton, version, settings.triton_image, found),
        _engine("vllm", vllm, found.vllm, settings.vllm_image, found),
    ]


def _engine(name: str, binary: Path | None, version: str | None, image: str, found: Software) -> Check:
    if binary is None:
        return Check("ok", name, "none" if found.runtime is None else f"in containers of {image}")
    if not os.access(binary, os.X_OK):
        return Check("fail", name, f"{binary} cannot be started", f"correct AIWM_{name.upper()}_SERVER")
    return _versioned(name, name, version, f", {binary}")


def _versioned(what: str, name: str, version: str | None, more: str = "") -> Check:
    value = f"{name} {version or 'of unknown version'}{more}"
    if version is not None and is_old(name, version):
        return Check("warn", what, value, sentence(name, version))
    return Check("ok", what, value)
