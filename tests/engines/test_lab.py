"""The laboratory itself: each real thing that tests of engines stand on is there and does what it is for."""

import asyncio
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.engines import images
from tests.engines.docker_api import DockerError
from tests.engines.dockerd import Dockerd, dockerd, lives
from tests.engines.registry import Registry, credentials
from tests.link_proxy import link_proxy

HARDENED: dict[str, Any] = {
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "ReadonlyRootfs": True,
    "PidsLimit": 500,
    # Both engines keep things there.
    "Tmpfs": {"/tmp": ""},
}
MIB = 1 << 20


def until(holds: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def wait_for(docker: Dockerd, container: str, port: int, path: str, seconds: float) -> str:
    """The container's address once `path` there answers 200; fails with its log."""
    deadline = time.monotonic() + seconds
    while docker.state(container)["Running"] and time.monotonic() < deadline:
        url = docker.url(container, port)
        if answer(f"{url}{path}")[0] == 200:
            return url
        time.sleep(0.1)
    pytest.fail(f"not ready:\n{docker.logs(container)[-4000:]}")


def answer(url: str, body: object = None) -> tuple[int, bytes]:
    """Status and body; 0 while nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})) as got:
            return int(got.status), got.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def test_a_container_serves_on_a_port_of_loopback(docker: Dockerd, busybox_image: str) -> None:
    container = docker.run(busybox_image, "serve", port=8080, Memory=64 * MIB, ShmSize=16 * MIB, **HARDENED)
    until(lambda: answer(f"{docker.url(container, 8080)}/health") == (200, b"ok\n"))
    docker.call("POST", f"/containers/{container}/stop", query={"t": "10"})
    assert docker.state(container)["ExitCode"] == 0
    docker.remove(container)


@pytest.mark.parametrize(("verb", "code"), [("finish", 0), ("fail", 1)])
def test_an_engine_can_end_at_once(docker: Dockerd, busybox_image: str, verb: str, code: int) -> None:
    container = docker.run(busybox_image, verb)
    until(lambda: not docker.state(container)["Running"])
    assert docker.state(container)["ExitCode"] == code
    docker.remove(container)


def test_an_engine_can_ignore_sigterm(docker: Dockerd, busybox_image: str) -> None:
    container = docker.run(busybox_image, "stubborn", port=8080)
    until(lambda: answer(f"{docker.url(container, 8080)}/health")[0] == 200)
    docker.call("POST", f"/containers/{container}/stop", query={"t": "1"})
    assert docker.state(container)["ExitCode"] == 137
    docker.remove(container)


def test_an_engine_can_eat_all_memory(docker: Dockerd, busybox_image: str) -> None:
    container = docker.run(busybox_image, "eat", Memory=16 * MIB, MemorySwap=16 * MIB)
    until(lambda: not docker.state(container)["Running"])
    assert docker.state(container)["OOMKilled"]
    docker.remove(container)


def test_an_engine_can_flood_its_log_and_serves_on(docker: Dockerd, busybox_image: str) -> None:
    container = docker.run(busybox_image, "flood", str(20 * MIB), port=8080)
    log = Path(docker.call("GET", f"/containers/{container}/json")["LogPath"])
    until(lambda: log.stat().st_size > 20 * MIB)
    assert answer(f"{docker.url(container, 8080)}/health")[0] == 200
    docker.remove(container)


@pytest.mark.parametrize("live_restore", [True, False])
def test_a_container_outlives_dockerd_only_with_live_restore(live_restore: bool) -> None:
    with dockerd(live_restore=live_restore) as one:
        container = one.run(images.add_busybox(one), "serve", port=8080)
        before = one.state(container)["Pid"]
        url = one.url(container, 8080)
        until(lambda: answer(f"{url}/health")[0] == 200)
        one.restart()
        assert (one.state(container)["Pid"] == before) is live_restore
        if live_restore:
            until(lambda: answer(f"{url}/health")[0] == 200)


@pytest.mark.parametrize("broken", [False, True])
def test_a_killed_dockerd_leaves_nothing(broken: bool) -> None:
    sockets = set(Path("/run/containerd/s").glob("*"))
    with dockerd() as one:
        container = one.run(images.add_busybox(one), "serve", port=8080)
        engine = psutil.Process(one.state(container)["Pid"])
        one.kill()
        assert lives(engine)
        if broken:
            (one.folder / "pid").unlink()
            (one.folder / "pid").mkdir()
    assert not lives(engine)
    assert not one.folder.exists()
    assert str(one.folder) not in Path("/proc/self/mounts").read_text()
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(one.folder) in str(each.info["cmdline"])]
    assert set(Path("/run/containerd/s").glob("*")) <= sockets
    assert one.name not in [name for _, name in socket.if_nameindex()]
    cgroups = [*Path("/sys/fs/cgroup").glob("*"), Path("/sys/fs/cgroup")]
    assert not [each for each in cgroups if (each / one.name).exists()]


def test_an_image_is_pulled_with_progress(docker: Dockerd, busybox_image: str, open_registry: Registry) -> None:
    name = f"{open_registry.host}/engine:1"
    docker.push(busybox_image, name, open_registry.headers)

    async def pull_slowly(target: Dockerd) -> list[dict[str, object]]:
        async with link_proxy(f"http://{open_registry.host}") as proxy:
            proxy.chunk, proxy.pause = 32768, 0.02
            slow = name.replace(open_registry.host, proxy.url.removeprefix("http://"))
            return await asyncio.to_thread(target.pull, slow)

    with dockerd() as without_its_layers:
        events = asyncio.run(pull_slowly(without_its_layers))
    done = [each["progressDetail"]["current"] for each in events if each.get("status") == "Downloading"]  # type: ignore[index]
    assert len(set(done)) > 2


def test_a_locked_registry_wants_the_right_password(
    docker: Dockerd, busybox_image: str, locked_registry: Registry
) -> None:
    name = f"{locked_registry.host}/engine:1"
    docker.push(busybox_image, name, locked_registry.headers)
    for headers in ({}, credentials("lab", "wrong", locked_registry.host)):
        with pytest.raises(DockerError, match=r"no basic auth credentials|unauthorized"):
            docker.pull(name, headers)
    docker.pull(name, locked_registry.headers)
    assert docker.call("GET", f"/images/{name}/json")["RepoDigests"][0].startswith(
        f"{locked_registry.host}/engine@sha256:"
    )
    docker.call("DELETE", f"/images/{name}")


CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "X" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [-1] }]
instance_group [{ kind: KIND_CPU }]
"""
DOUBLER = """
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        doubled = [triton.get_input_tensor_by_name(each, "X").as_numpy() * np.float32(2) for each in requests]
        return [triton.InferenceResponse([triton.Tensor("Y", each)]) for each in doubled]
"""


def test_triton_serves_without_a_single_capability(docker: Dockerd, triton_image: str, tmp_path: Path) -> None:
    (tmp_path / "doubler/1").mkdir(parents=True)
    (tmp_path / "doubler/config.pbtxt").write_text(CONFIG)
    (tmp_path / "doubler/1/model.py").write_text(DOUBLER)
    command = ["tritonserver", "--model-repository=/models"]
    binds = [f"{tmp_path}:/models:ro"]
    container = docker.run(triton_image, *command, port=8000, Binds=binds, ShmSize=256 * MIB, **HARDENED)
    url = wait_for(docker, container, 8000, "/v2/health/ready", 30)
    question = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [2], "data": [1.5, 2]}]}
    status, said = answer(f"{url}/v2/models/doubler/infer", question)
    assert status == 200, said
    assert json.loads(said)["outputs"][0]["data"] == [3.0, 4.0]
    docker.remove(container)
