"""What a container is given, word for word, and that no order can get it more."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.engines.base import EnginePlan, Listen
from aiwm.daemon.launchers.docker_config import container_config
from aiwm.daemon.launchers.port import NO_LIMITS, Room

FOLDER = Path("/var/lib/aiwm/node/replicas/replica-1")
MODEL = Path("/var/lib/aiwm/node/artifacts/abc")
PLAN = EnginePlan(
    argv=("tritonserver", "--http-port=41001"),
    environment={"A": "1"},
    ready=(),
    image="nvcr.io/nvidia/tritonserver:24.10-py3",
    listens=(Listen(41001, abroad=True), Listen(41002)),
)
GOLDEN = Path(__file__).parent / "golden"


def test_a_container_with_everything() -> None:
    room = Room("demo-1", gpus=("GPU-1", "GPU-2"), ram=4096, cpu_cores=1.5, folders=(MODEL, FOLDER / "workspace"))
    config = container_config(FOLDER, PLAN, room, abroad="10.0.0.5", network="net-1", memlock=True)
    assert json.dumps(config, indent=2) + "\n" == (GOLDEN / "container.json").read_text()


def test_without_limits_it_has_no_gpu_all_the_same() -> None:
    config = container_config(FOLDER, PLAN, NO_LIMITS, abroad="127.0.0.1", network="net-1", memlock=False)
    host = config["HostConfig"]
    assert not {"Memory", "NanoCpus", "DeviceRequests", "Ulimits"} & host.keys()
    assert "NVIDIA_VISIBLE_DEVICES=void" in config["Env"]


def test_a_port_of_its_own_and_an_entrypoint() -> None:
    plan = EnginePlan(argv=("serve",), environment={}, ready=(), image="a", entrypoint=True, listens=(Listen(9, 80),))
    config = container_config(FOLDER, plan, NO_LIMITS, abroad="127.0.0.1", network="net-1", memlock=False)
    assert (config["Entrypoint"], config["Cmd"]) == (["serve"], [])
    assert config["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9"}]}


def test_without_words_of_ours_the_image_s_own_are_left() -> None:
    plan = EnginePlan(argv=(), environment={}, ready=(), image="a")
    config = container_config(FOLDER, plan, NO_LIMITS, abroad="127.0.0.1", network="net-1", memlock=False)
    assert not {"Entrypoint", "Cmd"} & config.keys()


@given(
    st.lists(st.text(max_size=20), max_size=5),
    st.dictionaries(st.text(min_size=1, max_size=10), st.text(max_size=20), max_size=5),
    st.integers(1, 2**20) | st.none(),
)
def test_no_order_gets_a_right(argv: list[str], environment: dict[str, str], ram: int | None) -> None:
    plan = EnginePlan(argv=tuple(argv), environment=environment, ready=(), image="a")
    config = container_config(FOLDER, plan, Room(ram=ram), abroad="127.0.0.1", network="net-1", memlock=True)
    host = config["HostConfig"]
    assert (host["Privileged"], host["CapDrop"], host["SecurityOpt"]) == (False, ["ALL"], ["no-new-privileges"])
    assert not {"CapAdd", "Binds", "Devices", "PidMode", "IpcMode", "UsernsMode"} & host.keys()
    assert host["NetworkMode"] == "net-1"
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["ShmSize"] <= host.get("Memory", host["ShmSize"])
    assert host.get("Memory") == host.get("MemorySwap")
    assert config["Labels"]["ai.aiwm.folder"] == str(FOLDER)
