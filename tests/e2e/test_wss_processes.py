"""Controller, NOTI and a node as processes over TLS, with npm's socket.io-client: a change in one is felt in all."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.servers import free_port, redis
from tests.tls_support import Authority, serial_of, served_serial

from aiwm.protocol.errors import AiwmError
from aiwm.sdk.client import Client
from aiwm.testing.world import eventually

PASSWORD = "a password for this test"
KEY = "0123456789abcdef0123456789abcdef"
PROMISED_SECONDS = 5.0
_HERE = Path(__file__).resolve().parent
_MODULES = _HERE.parents[1] / ".cache" / "npm-socket.io-client"


@pytest.fixture(scope="module")
def modules() -> Path:
    """A folder with npm's socket.io-client."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("no npm: apt-get install nodejs npm")
    if not (_MODULES / "node_modules" / "socket.io-client").is_dir():
        _MODULES.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(_MODULES), "socket.io-client@4"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            pytest.skip(f"no socket.io-client: {' '.join(command)}")
    return _MODULES


@dataclass(slots=True)
class Site:
    """Processes over TLS, each with a log file below `folder`."""

    folder: Path
    authority: Authority
    environment: dict[str, str]
    stack: ExitStack
    port: int
    noti_port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def noti_url(self) -> str:
        return f"https://127.0.0.1:{self.noti_port}"

    def start(self, name: str, command: list[str], **extra: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**self.environment, **extra},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.stack.callback(_end, process)

    def aiwm(self, command: str, **extra: str) -> None:
        self.start(command, [sys.executable, "-m", "aiwm", command], **extra)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def heard(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log(name).splitlines() if line.startswith("{")]


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
    process.wait(10)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        authority = Authority(tmp_path)
        pair = authority.issue("server")
        port, noti_port = free_port(), free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIWM_")},
            "AIWM_STORE_URL": f"sqlite://{tmp_path}/aiwm.db",
            "AIWM_REDIS_URL": stack.enter_context(redis(tmp_path)),
            "AIWM_OBJECTS_URL": f"file://{tmp_path}/objects",
            "AIWM_JWT_SECRET": KEY,
            "AIWM_ENCRYPTION_KEY": KEY,
            "AIWM_ADMIN_PASSWORD": PASSWORD,
            "AIWM_DATA_DIR": str(tmp_path / "data"),
            "AIWM_PORT": str(port),
            "AIWM_NOTI_PORT": str(noti_port),
            "AIWM_TLS_CERT": str(pair.cert),
            "AIWM_TLS_KEY": str(pair.key),
            "AIWM_TLS_CA": str(authority.file),
        }
        yield Site(tmp_path, authority, environment, stack, port, noti_port)


@contextlib.asynccontextmanager
async def signed_in(site: Site) -> AsyncIterator[Client]:
    site.aiwm("controller")
    site.aiwm("noti")
    async with Client(site.url, noti_url=site.noti_url, ca_file=str(site.authority.file)) as client:

        async def ready(noti: bool) -> bool:
            try:
                await client.request("GET", "/health/ready", noti=noti)
            except AiwmError:
                return False
            return True

        for noti in (False, True):
            await eventually(lambda noti=noti: ready(noti), within=60)  # type: ignore[misc]
        await client.login("admin", PASSWORD)
        yield client


async def _listening_as_bob(site: Site, client: Client, modules: Path) -> str:
    """Bob's id, once his client is connected."""
    body = {"username": "bob", "password": PASSWORD, "roles": ["organization.viewer"]}
    body["orgId"] = (await client.me()).org_id  # type: ignore[assignment]
    user = await client.request("POST", "/api/v1/users", json=body)
    assert isinstance(user, dict)
    async with Client(site.url, ca_file=str(site.authority.file)) as bobs:
        token = (await bobs.login("bob", PASSWORD)).access_token
    command = ["node", str(_HERE / "socket_client.mjs"), site.noti_url, token, str(modules)]
    site.start("client", command, NODE_EXTRA_CA_CERTS=str(site.authority.file))
    await eventually(lambda: bool(site.heard("client")))
    assert site.heard("client")[0]["event"] == "connected"
    return str(user["userId"])


async def _node_online(site: Site, client: Client) -> str:
    made = await client.nodes.create({"name": "far"})
    token = (await client.nodes.token(made.node_id, expires_in=3600)).token
    site.aiwm("node", AIWM_CONTROLLER_URL=f"wss://127.0.0.1:{site.port}/ws/node", AIWM_NODE_TOKEN=token)

    async def online() -> bool:
        return (await client.nodes.get(made.node_id)).status.value == "online"

    await eventually(online, within=20)
    return made.node_id


async def test_a_change_at_the_controller_ends_connections_in_every_process_within_five_seconds(
    running: Site, modules: Path
) -> None:
    site = running
    async with signed_in(site) as client:
        bob = await _listening_as_bob(site, client, modules)
        node_id = await _node_online(site, client)
        epoch = (await client.nodes.get(node_id)).epoch

        serial = serial_of(site.authority.issue("server", rsa_key=True))
        for port in (site.port, site.noti_port):
            await eventually(lambda port=port: served_serial(port, site.authority.trust) == serial)  # type: ignore[misc]
        assert {each["event"] for each in site.heard("client")} == {"connected", "service.event"}
        assert (await client.nodes.get(node_id)).epoch == epoch

        began = time.monotonic()
        await client.request("PATCH", f"/api/v1/users/{bob}", json={"isActive": False})
        await eventually(lambda: site.heard("client")[-1]["event"] == "disconnect", within=PROMISED_SECONDS)
        assert time.monotonic() - began < PROMISED_SECONDS
        told = site.heard("client")[-2]
        assert (told["event"], told["body"]["code"]) == ("session.ended", "TOKEN_INVALID")

        await client.nodes.revoke(node_id)

        async def offline() -> bool:
            return (await client.nodes.get(node_id)).status.value == "offline"

        await eventually(offline, within=PROMISED_SECONDS)
        await eventually(lambda: "TOKEN_INVALID: cannot connect: the token was revoked" in site.log("node"), within=15)


@pytest.mark.parametrize("command", ["controller", "noti"])
def test_a_key_that_does_not_fit_is_one_line_and_exit_code_2(running: Site, command: str) -> None:
    other = running.authority.issue("other")
    done = subprocess.run(
        [sys.executable, "-m", "aiwm", command],
        env={**running.environment, "AIWM_TLS_KEY": str(other.key)},
        cwd=running.folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    (line,) = [each for each in done.stderr.splitlines() if not each.startswith("{")]
    assert line.endswith("the key does not belong to the certificate")


async def test_up_serves_tls_and_its_own_node_dials_in_over_it(running: Site) -> None:
    site = running
    for name in ("STORE_URL", "REDIS_URL", "OBJECTS_URL", "JWT_SECRET", "ENCRYPTION_KEY"):
        del site.environment[f"AIWM_{name}"]
    site.aiwm("up")
    await eventually(lambda: "ready in" in site.log("up"), within=60)
    assert f"controller     {site.url}" in site.log("up")
    async with Client(site.url, noti_url=site.noti_url, ca_file=str(site.authority.file)) as client:
        await client.login("admin", PASSWORD)

        async def online() -> bool:
            page = await client.request("GET", "/api/v1/nodes")
            assert isinstance(page, dict)
            return [each["status"] for each in page["data"]] == ["online"]

        await eventually(online, within=30)
        assert isinstance(await client.request("GET", "/api/v1/notifications", noti=True), dict)
