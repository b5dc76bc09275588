"""Which engines a node offers and which launcher has one for an order, of processes and containers together."""

import pytest
from tests.daemon_support import order

from aiwm.daemon.engines.base import Engine
from aiwm.daemon.engines.custom import CustomEngine
from aiwm.daemon.engines.triton import TritonEngine
from aiwm.daemon.launchers.docker import DockerLauncher, DockerSettings
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.daemon.launchers.several import SeveralLaunchers
from aiwm.protocol.states import EngineName

IN_IMAGES: dict[EngineName, Engine] = {
    EngineName.TRITON: TritonEngine(image="triton"),
    EngineName.CUSTOM: CustomEngine(commands=False),
}
COMMANDS: dict[EngineName, Engine] = {EngineName.CUSTOM: CustomEngine(commands=True)}


def several(processes: dict[EngineName, Engine]) -> SeveralLaunchers:
    docker = DockerLauncher(IN_IMAGES, DockerSettings(host="unix:///nowhere.sock"))
    return SeveralLaunchers(ProcessLauncher(processes), docker)


@pytest.mark.parametrize("processes", [{}, COMMANDS], ids=["no commands", "commands"])
def test_custom_is_offered_where_commands_run_and_with_an_image_wherever_containers_do(
    processes: dict[EngineName, Engine],
) -> None:
    both = several(processes)
    assert set(both.engines) == {EngineName.TRITON, *processes}
    assert both.engine(order(engine=EngineName.CUSTOM, engine_args=["serve"])) is processes.get(EngineName.CUSTOM)
    assert both.engine(order(engine=EngineName.CUSTOM, image="mine:1")) is IN_IMAGES[EngineName.CUSTOM]
    assert both.engine(order(engine=EngineName.TRITON)) is IN_IMAGES[EngineName.TRITON]
