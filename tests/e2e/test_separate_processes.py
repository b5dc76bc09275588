"""The same road as `aiwm demo`, as separate processes on MongoDB, a Redis of their own and MinIO, with real Triton."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from tests.servers import MINIO_PASSWORD, MINIO_USER, free_port, minio, mongodb, redis

from aiwm.cli.demo_digits import Digits
from aiwm.cli.demo_events import Witness
from aiwm.cli.demo_road import Road
from aiwm.daemon.engines.triton_install import find_binary
from aiwm.sdk.client import Client
from aiwm.testing.world import eventually

PASSWORD = "a password for this test"
KEY = "0123456789abcdef0123456789abcdef"
SERVICES = ("controller", "noti", "worker")


@dataclass(slots=True)
class Processes:
    """Separate processes, each with a log file below `folder`."""

    folder: Path
    environment: Mapping[str, str]
    stack: ExitStack
    url: str
    noti_url: str

    def start(self, command: str, **extra: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{command}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "aiwm", command],
                env={**self.environment, **extra},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.stack.callback(_end, process)
        return process

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.wait()

    def log(self, command: str) -> str:
        return (self.folder / f"{command}.log").read_text()


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.returncode is None:
        process.terminate()
        assert process.wait(10) == 0


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with ExitStack() as stack:
        port, noti_port = free_port(), free_port()
        endpoint = stack.enter_context(minio(tmp_path))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIWM_")},
            "AIWM_STORE_URL": stack.enter_context(mongodb(tmp_path)),
            "AIWM_REDIS_URL": stack.enter_context(redis(tmp_path)),
            "AIWM_OBJECTS_URL": f"s3://aiwm-{port}?endpoint={endpoint}",
            "AIWM_S3_ACCESS_KEY": MINIO_USER,
            "AIWM_S3_SECRET_KEY": MINIO_PASSWORD,
            "AIWM_JWT_SECRET": KEY,
            "AIWM_ENCRYPTION_KEY": KEY,
            "AIWM_ADMIN_PASSWORD": PASSWORD,
            "AIWM_DATA_DIR": str(tmp_path / "data"),
            "AIWM_PORT": str(port),
            "AIWM_NOTI_PORT": str(noti_port),
        }
        yield Processes(tmp_path, environment, stack, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{noti_port}")


async def _ready(url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as http, http.get(f"{url}/health/ready") as answer:
            return answer.status == 200
    return False


@contextlib.asynccontextmanager
async def signed_in(processes: Processes) -> AsyncIterator[Client]:
    for url in (processes.url, processes.noti_url):
        await eventually(lambda url=url: _ready(url), within=60)  # type: ignore[misc]
    async with Client(processes.url, noti_url=processes.noti_url) as client:
        await client.login("admin", PASSWORD)
        yield client


async def test_the_road_runs_as_separate_processes_on_mongodb_redis_and_s3(processes: Processes) -> None:
    if find_binary("") is None:
        pytest.skip("no tritonserver: pip install nvidia-pytriton==0.7.0")
    for service in SERVICES:
        processes.start(service)
    told: list[str] = []

    async def join(token: str) -> None:
        processes.start("node", AIWM_CONTROLLER_URL=processes.url, AIWM_NODE_TOKEN=token)

    async with signed_in(processes) as client, Witness(client.live(), lambda _: None) as witness:
        await Road(Digits(), client, witness, join, told.append).walk()
    correlation = next(line.split()[-1] for line in told if "correlation id" in line)
    for service in ("controller", "noti", "node"):
        assert correlation in processes.log(service), f"{service} does not log the correlation id"


async def test_a_worker_that_was_killed_is_followed_by_another_that_finishes_the_upload(
    processes: Processes, tmp_path: Path
) -> None:
    processes.start("controller")
    processes.start("noti")
    async with signed_in(processes) as client:
        model = await client.models.create({"name": "late", "framework": "triton"})
        source = tmp_path / "model"
        source.mkdir()
        (source / "config.pbtxt").write_text('backend: "python"\n')
        await client.models.upload(model.model_id, source)
        first = processes.start("worker")
        processes.kill(first)
        processes.start("worker")
        assert (await client.models.wait_ready(model.model_id, timeout=60)).files[0].path == "config.pbtxt"


@pytest.mark.parametrize("missing", ["AIWM_STORE_URL", "AIWM_REDIS_URL", "AIWM_OBJECTS_URL", "AIWM_JWT_SECRET"])
async def test_a_process_refuses_to_start_without_what_it_stands_on(missing: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
    environment |= {
        "AIWM_STORE_URL": f"sqlite:///{tmp_path}/aiwm.db",
        "AIWM_REDIS_URL": "redis://127.0.0.1:1/0",
        "AIWM_OBJECTS_URL": f"file://{tmp_path}/objects",
        "AIWM_JWT_SECRET": KEY,
    }
    del environment[missing]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aiwm", "controller", env=environment, stderr=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    (line,) = [each for each in said.decode().splitlines() if not each.startswith("{")]
    assert missing in line
