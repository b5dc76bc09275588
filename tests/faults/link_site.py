"""Controller and worker as processes on one SQLite file and one Redis, for tests that kill the controller."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from tests.servers import free_port, redis

from aiwm.assets import MODEL
from aiwm.sdk.client import Client
from aiwm.testing.world import eventually

PASSWORD = "a password for this test"
_KEY = "0123456789abcdef0123456789abcdef"


@dataclass
class Site:
    """The controller at `url`; `prefix` is put before every command, as `ip netns exec NAME`."""

    folder: Path
    url: str
    environment: Mapping[str, str]
    prefix: tuple[str, ...] = ()
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, service: str) -> None:
        """A service of the product."""
        self.launch(service, [sys.executable, "-m", "aiwm", service])

    def launch(self, name: str, command: Sequence[str]) -> None:
        """Any program."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*self.prefix, *command],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, service: str) -> None:
        """As the kernel does it, when memory is short."""
        process = self.running.pop(service)
        process.kill()
        process.wait()

    def end(self, service: str) -> None:
        process = self.running.pop(service, None)
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    async def ready(self, url: str = "") -> None:
        async def answers() -> bool:
            with suppress(aiohttp.ClientError, TimeoutError):
                timeout = aiohttp.ClientTimeout(total=2)
                async with (
                    aiohttp.ClientSession(timeout=timeout) as http,
                    http.get(f"{url or self.url}/health/ready") as answer,
                ):
                    return answer.status == 200
            return False

        await eventually(answers, within=60)


def settings(folder: Path, redis_url: str, port: int) -> dict[str, str]:
    """The environment of every process of a site in `folder`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
    return own | {
        "AIWM_STORE_URL": f"sqlite:///{folder}/aiwm.db",
        "AIWM_REDIS_URL": redis_url,
        "AIWM_OBJECTS_URL": f"file://{folder}/objects",
        "AIWM_JWT_SECRET": _KEY,
        "AIWM_ENCRYPTION_KEY": _KEY,
        "AIWM_ADMIN_PASSWORD": PASSWORD,
        "AIWM_DATA_DIR": str(folder / "data"),
        "AIWM_PORT": str(port),
    }


@contextmanager
def a_site(folder: Path) -> Iterator[Site]:
    """Controller and worker, started, until the end."""
    with ExitStack() as stack:
        redis_url, port = stack.enter_context(redis(folder)), free_port()
        site = Site(folder, f"http://127.0.0.1:{port}", settings(folder, redis_url, port))
        for service in ("controller", "worker"):
            site.start(service)
            stack.callback(site.end, service)
        yield site


async def a_model(client: Client) -> str:
    """The shipped classifier, uploaded and verified; its id."""
    made = await client.models.create({"name": "digits", "framework": "triton"})
    await client.models.upload(made.model_id, MODEL)
    await client.models.wait_ready(made.model_id, timeout=60)
    return made.model_id


async def silence(seconds: float) -> None:
    """Time that must pass: how long something is away is what the test is about."""
    await asyncio.sleep(seconds)
