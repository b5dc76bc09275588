"""`aiwm doctor` beside a real controller, beside others, and beside nothing."""

import asyncio
import base64
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from tests.tls_support import Authority

from aiwm.daemon import doctor as examining
from aiwm.daemon.credential import Credential
from aiwm.daemon.keeper import write_atomically
from aiwm.kit.settings import Settings
from aiwm.testing.world import World, open_world


@dataclass(frozen=True)
class Finding:
    """What the command said: exit code, checks by what they are about, and all of its text."""

    code: int
    checks: dict[str, dict[str, str]]
    text: str

    def verdict(self, what: str) -> str:
        return self.checks[what]["verdict"]


async def run(*arguments: str, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aiwm",
        "doctor",
        *arguments,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    assert b"Traceback" not in errors, errors.decode()
    assert process.returncode is not None
    return process.returncode, out.decode() + errors.decode()


async def doctor(folder: Path, url: str, token: str = "", **environment: str) -> Finding:
    settings = {"AIWM_DATA_DIR": str(folder), "AIWM_CONTROLLER_URL": url, "AIWM_NODE_TOKEN": token, **environment}
    no_file = ("--env-file", str(folder / "none.env"))
    code, text = await run("-o", "json", *no_file, **settings)
    found = json.loads(text)
    assert found["ok"] is (code == 0)
    for check in found["checks"]:
        assert check["verdict"] == "ok" or check["advice"], check
    return Finding(code, {each["what"]: each for each in found["checks"]}, text)


def token_until(expires: float) -> str:
    body = base64.urlsafe_b64encode(json.dumps({"exp": int(expires)}).encode()).rstrip(b"=").decode()
    return f"e30.{body}.c2lnbmF0dXJl"


GOOD = token_until(time.time() + 30 * 86_400)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


async def test_a_machine_that_can_be_a_node_is_told_so(world: World, tmp_path: Path) -> None:
    node = await world.call("POST", "/api/v1/nodes", json={"name": "gpu-1"}, expect=201)
    made = await world.call("POST", f"/api/v1/nodes/{node['nodeId']}/token", json={}, expect=200)
    found = await doctor(tmp_path, world.url, str(made["token"]))
    assert found.code == 0, found.text
    assert found.verdict("controller") == found.verdict("answer") == found.verdict("token") == "ok"
    assert found.checks["clock"]["value"] == "right"
    assert str(made["token"]) not in found.text
    code, lines = await run(
        "--controller-url", world.url, "--data-dir", str(tmp_path), AIWM_NODE_TOKEN=str(made["token"])
    )
    assert code == 0
    assert all(line.split()[0] in ("ok", "warn") for line in lines.splitlines())


async def test_nothing_set_is_two_failures_that_say_what_to_set(tmp_path: Path) -> None:
    code, text = await run("--data-dir", str(tmp_path))
    assert code == 1
    failures = [line for line in text.splitlines() if line.startswith("fail")]
    assert [line.split()[1] for line in failures] == ["token:", "controller:"]
    assert "AIWM_NODE_TOKEN" in failures[0]
    assert "AIWM_CONTROLLER_URL" in failures[1]


async def test_the_installed_service_s_settings_are_looked_at_where_the_shell_has_none(tmp_path: Path) -> None:
    (tmp_path / "node.env").write_text(f'AIWM_NODE_TOKEN="{GOOD}"\nAIWM_DATA_DIR="{tmp_path}"\n')
    code, text = await run("--env-file", str(tmp_path / "node.env"))
    assert code == 1
    assert f"ok    settings: from {tmp_path / 'node.env'}" in text
    assert "ok    token: there, until" in text


async def test_a_wrong_setting_is_a_line_and_the_machine_is_looked_at_all_the_same(tmp_path: Path) -> None:
    code, text = await run("--data-dir", str(tmp_path), AIWM_NODE_TOKN="x")
    assert code == 1
    assert "fail  settings: unknown setting AIWM_NODE_TOKN" in text
    assert "ok    python:" in text


async def test_what_is_called_wrongly_is_2() -> None:
    assert (await run("--what"))[0] == 2


async def test_a_controller_that_is_not_there_and_a_name_that_is_not_known_are_told_apart(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = await doctor(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}", GOOD)
    unknown = await doctor(tmp_path, "http://no-such-host.invalid:3003", GOOD)
    assert (away.code, unknown.code) == (1, 1)
    assert "no connection to 127.0.0.1" in away.checks["controller"]["value"]
    assert "is not known" in unknown.checks["controller"]["value"]
    assert "DNS" in unknown.checks["controller"]["advice"]


@asynccontextmanager
async def serving(*, date: float | None = None, status: int = 200, tls: Any = None) -> AsyncIterator[str]:
    """A server in the controller's place, with a time of its own; its URL."""

    async def live(request: web.Request) -> web.Response:
        headers = {} if date is None else {"Date": formatdate(date, usegmt=True)}
        return web.json_response({}, status=status, headers=headers)

    application = web.Application()
    application.router.add_get("/health/live", live)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("ahead", "verdict", "code"), [(0, "ok", 0), (-20, "warn", 0), (30, "warn", 0), (600, "fail", 1)]
)
async def test_a_clock_that_is_off_is_told(tmp_path: Path, ahead: int, verdict: str, code: int) -> None:
    async with serving(date=time.time() - ahead) as url:
        found = await doctor(tmp_path, url, GOOD)
    assert (found.verdict("clock"), found.code) == (verdict, code)
    if ahead:
        assert ("ahead of" if ahead > 0 else "behind") in found.checks["clock"]["value"]


async def test_a_server_that_is_no_controller_is_told(tmp_path: Path) -> None:
    async with serving(status=404) as url:
        found = await doctor(tmp_path, url, GOOD)
        mistaken = await doctor(tmp_path, url.replace("http:", "https:"), GOOD)
    assert (found.verdict("answer"), found.code) == ("fail", 1)
    assert (mistaken.verdict("certificate"), mistaken.code) == ("fail", 1)


async def test_a_server_that_answers_nonsense_is_told(tmp_path: Path) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with server:
        found = await doctor(tmp_path, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws/node", GOOD)
    assert (found.verdict("answer"), found.code) == ("fail", 1)


async def test_a_certificate_is_judged_by_the_authority_that_was_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("controller")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    async with serving(tls=context) as url:
        trusted = await doctor(tmp_path, url, GOOD, AIWM_TLS_CA=str(authority.file))
        stranger = await doctor(tmp_path, url, GOOD)
        nowhere = await doctor(tmp_path, url, GOOD, AIWM_TLS_CA=str(tmp_path / "none.pem"))
    assert (trusted.verdict("certificate"), trusted.code) == ("ok", 0)
    assert "set AIWM_TLS_CA" in stranger.checks["certificate"]["value"] + stranger.checks["certificate"]["advice"]
    assert (stranger.verdict("certificate"), stranger.code) == ("fail", 1)
    assert (nowhere.verdict("certificate"), nowhere.code) == ("fail", 1)


async def test_a_token_that_ended_is_a_failure_and_the_renewed_one_counts(tmp_path: Path) -> None:
    ended = token_until(time.time() - 60)
    async with serving() as url:
        old = await doctor(tmp_path, url, ended)
        (tmp_path / "node").mkdir()
        Credential(tmp_path / "node", ended).renewed(GOOD)
        renewed = await doctor(tmp_path, url, ended)
        soon = await doctor(tmp_path, url, token_until(time.time() + 3600))
        odd = await doctor(tmp_path, url, "no-token-of-ours")
    assert (old.verdict("token"), old.code) == ("fail", 1)
    assert "aiwm nodes token" in old.checks["token"]["advice"]
    assert (renewed.verdict("token"), renewed.code) == ("ok", 0)
    assert (soon.verdict("token"), odd.verdict("token")) == ("warn", "warn")


async def test_a_machine_that_joins_or_has_joined_needs_no_token_of_its_own(tmp_path: Path) -> None:
    async with serving() as url:
        joining = await doctor(tmp_path, url, AIWM_JOIN_TOKEN="a-join-token")
        (tmp_path / "node").mkdir()
        kept = {"nodeId": "node-1", "token": GOOD, "url": url, "joinedWith": "mark"}
        write_atomically(tmp_path / "node/identity.json", kept)
        joined = await doctor(tmp_path, url)
        write_atomically(tmp_path / "node/identity.json", {"nodeId": "node-1"})
        torn = await doctor(tmp_path, url)
    assert (joining.verdict("token"), joining.code) == ("ok", 0)
    assert "a join token" in joining.checks["token"]["value"]
    assert (joined.verdict("token"), joined.code) == ("ok", 0)
    assert "there, until" in joined.checks["token"]["value"]
    assert (torn.verdict("token"), torn.code) == ("fail", 1)


def test_a_folder_that_this_user_may_not_look_into_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(examining, "read_identity", forbidden)
    found = examining.own_token(Settings(data_dir=tmp_path))
    assert (found.verdict, found.advice) == ("warn", "run this with sudo")
