"""In which ways a real node runs engines: what is installed on it as processes, and everything else in containers."""

from pathlib import Path

from aiwm.daemon.engines.base import Engine
from aiwm.daemon.engines.custom import CustomEngine
from aiwm.daemon.engines.triton import TritonEngine
from aiwm.daemon.engines.triton_install import find_binary
from aiwm.daemon.engines.vllm import GpuMemory, VllmEngine
from aiwm.daemon.engines.vllm_install import find_vllm
from aiwm.daemon.launchers.docker import DockerLauncher, DockerSettings
from aiwm.daemon.launchers.docker_images import repository
from aiwm.daemon.launchers.docker_table import NOTE
from aiwm.daemon.launchers.limits import systemd_run
from aiwm.daemon.launchers.port import Launcher
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.daemon.launchers.several import SeveralLaunchers
from aiwm.daemon.ports import listen_address
from aiwm.kit.settings import Settings
from aiwm.protocol.states import EngineName

Engines = dict[EngineName, Engine]


def launchers(settings: Settings, own: Path, lifeline: int | None, gpu_memory: GpuMemory) -> Launcher:
    """`own` is the daemon's folder; `lifeline` as in `ProcessLauncher`."""
    processes = ProcessLauncher(_installed(settings, own, gpu_memory), lifeline=lifeline, systemd_run=systemd_run())
    off = settings.docker_host == "off"
    if off and not any((own / "replicas").glob(f"*/{NOTE}")):
        return processes
    containers = DockerSettings(
        host="" if off else settings.docker_host,
        allowed=allowed_images(settings),
        auth_file=settings.registry_auth_file,
        listen=listen_address(settings.advertise_host).bind,
        replicas=own / "replicas",
    )
    # Switched off, Docker gets nothing new; what runs there already is looked after until it is stopped.
    images = {} if off else _in_images(settings, gpu_memory)
    return SeveralLaunchers(processes, DockerLauncher(images, containers))


def allowed_images(settings: Settings) -> list[str]:
    """What the operator allows, else every version of the engines' own images; those that are set always."""
    own = (settings.triton_image, settings.vllm_image)
    others = settings.allowed_images.split(",") if settings.allowed_images else map(repository, own)
    return [*own, *others]


def _installed(settings: Settings, own: Path, gpu_memory: GpuMemory) -> Engines:
    engines: Engines = {}
    if (binary := find_binary(settings.triton_server)) is not None:
        engines[EngineName.TRITON] = TritonEngine(binary, own / "triton")
    if (command := find_vllm(settings.vllm_server)) is not None:
        engines[EngineName.VLLM] = VllmEngine(command, gpu_memory=gpu_memory, remote_code=settings.trust_remote_code)
    if settings.custom_commands:
        engines[EngineName.CUSTOM] = CustomEngine(commands=True)
    return engines


def _in_images(settings: Settings, gpu_memory: GpuMemory) -> Engines:
    return {
        EngineName.TRITON: TritonEngine(image=settings.triton_image),
        EngineName.VLLM: VllmEngine(
            None, image=settings.vllm_image, gpu_memory=gpu_memory, remote_code=settings.trust_remote_code
        ),
        EngineName.CUSTOM: CustomEngine(commands=False),
    }
