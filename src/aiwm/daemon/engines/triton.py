# ruff: noqa: ARG002
"""NVIDIA Triton Inference Server."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import quote

from aiwm.daemon.engines.base import Address, EnginePlan, Listen, Ports, Trial, Verdict
from aiwm.daemon.engines.triton_install import find_version, open_install
from aiwm.daemon.engines.triton_repository import lay_out
from aiwm.protocol.node_channel import DeployCommand, EngineNumbers
from aiwm.protocol.resources.deployments import served_name

_EXIT_SECONDS = 25
_LOAD_FAILED = re.compile(r"failed to load '[^']+' version \d+: (.+)")
_FATAL = re.compile(r"^error: (.+)$", re.MULTILINE)
_LOGGED = re.compile(r"^E\d{4} [\d:.]+ \d+ \S+\] (.+)$", re.MULTILINE)
_PORT_TAKEN = re.compile(r"already in use|failed to start (?:HTTP|GRPC|Metrics) service", re.IGNORECASE)


class TritonEngine:
    """One server per replica, with that replica's model under the deployment's name.

    It is this machine's `binary`, with `own` as a folder for what that lacks; without one, the server in `image`.
    """

    def __init__(self, binary: Path | None = None, own: Path = Path(), image: str = "") -> None:
        self._binary, self._own, self._image = binary, own, image

    def version(self) -> str | None:
        return None if self._binary is None else find_version(self._binary)

    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        install = None if self._binary is None else open_install(self._binary, self._own)
        # A container has addresses of its own; what of it can be reached is said by `listens`.
        bind, own = ("0.0.0.0", "0.0.0.0") if install is None else (address.bind, "127.0.0.1")  # noqa: S104
        repository = workspace / "repository"
        shutil.rmtree(repository, ignore_errors=True)
        name = served_name(order.deployment_name)
        lay_out(artifact, repository, name)
        region = f"aiwm_{order.replica_id}_"
        local = f"http://{address.local}:{ports.http}/v2"
        backends = [f"--backend-directory={install.backends}"] if install and install.backends else []
        argv = [
            str(install.binary) if install else "tritonserver",
            f"--model-repository={repository}",
            *backends,
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in sorted(os.listdir(repository))),
            "--exit-on-error=true",
            f"--exit-timeout-secs={_EXIT_SECONDS}",
            f"--http-address={bind}",
            f"--http-port={ports.http}",
            f"--grpc-address={own}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-address={own}",
            f"--metrics-port={ports.metrics}",
            f"--allow-gpu-metrics={'true' if order.gpu_device_ids else 'false'}",
            f"--backend-config=python,shm-region-prefix-name={region}",
            *order.engine_args,
        ]
        return EnginePlan(
            argv=tuple(argv),
            environment={**order.environment_variables, **(install.environment if install else {})},
            ready=(f"{local}/health/ready", f"{local}/models/{quote(name, safe='')}/ready"),
            listens=(Listen(ports.http, abroad=True), Listen(ports.grpc), Listen(ports.metrics)),
            metrics=f"http://127.0.0.1:{ports.metrics}/metrics",
            image=None if install else order.image or self._image,
            scratch=(f"/dev/shm/{region}*",),  # noqa: S108 - where Triton keeps its shared memory
        )

    async def try_out(self, order: DeployCommand, base: str) -> Trial:
        return Trial(Verdict.UNTRIED, "Triton's models say too little of what they take")

    def numbers(self, page: str) -> EngineNumbers:
        return EngineNumbers()

    def explain(self, log: str) -> str | None:
        """Triton's own line: why a model did not load, else why the server did not start, else its last error."""
        for pattern in (_LOAD_FAILED, _FATAL, _LOGGED):
            if found := list(pattern.finditer(log)):
                text = found[0].group() if pattern is _LOAD_FAILED else found[-1].group(1)
                # Triton writes line ends inside its messages as \n; what follows them is a traceback of its own.
                return text.split("\\n")[0].strip().strip('"')
        return None

    def port_taken(self, log: str) -> bool:
        return _PORT_TAKEN.search(log) is not None
