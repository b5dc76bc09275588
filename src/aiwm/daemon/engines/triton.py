"""NVIDIA Triton Inference Server."""

import os
import shutil
from pathlib import Path
from urllib.parse import quote

from aiwm.daemon.engines import triton_errors
from aiwm.daemon.engines.base import Address, EnginePlan, Listen, Ports, Trial
from aiwm.daemon.engines.triton_install import find_version, open_install
from aiwm.daemon.engines.triton_numbers import read_numbers
from aiwm.daemon.engines.triton_repository import lay_out
from aiwm.daemon.engines.triton_trial import try_model
from aiwm.protocol.engine_options import options
from aiwm.protocol.node_channel import DeployCommand, EngineNumbers
from aiwm.protocol.resources.deployments import served_name

_EXIT_SECONDS = 25


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
        lay_out(artifact, repository, name, order.artifact.framework, gpus=bool(order.gpu_device_ids))
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
            *(each.text for each in options(order.engine, order.engine_args)),
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
        return await try_model(base, served_name(order.deployment_name))

    def numbers(self, order: DeployCommand, page: str) -> EngineNumbers:
        return read_numbers(page, served_name(order.deployment_name))

    def explain(self, log: str) -> str | None:
        return triton_errors.explain(log)

    def port_taken(self, log: str) -> bool:
        return triton_errors.port_taken(log)
