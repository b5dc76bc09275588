"""A whole installation is told secrets one would recognise, then searched: logs, store, queue, errors, processes."""

import json
import os
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from aiwm.apps.up.folder import free_port

ADMIN = "Admin-Secret-7f3a9c51"
USER = "User-Secret-5be2d804"
WRONG = "Wrong-Secret-c2a61f77"
JOIN_KEY = "Join-Key-91d3e0b8-of-a-machine-itself"
_OWN_FILES = {"jwt-secret", "encryption-key", "admin-password", "node-token", "local-node-token"}


@dataclass
class Site:
    """A running `aiwm up`, what secrets it was told and gave out, and what it answered when it refused."""

    folder: Path
    process: "subprocess.Popen[bytes]"
    url: str
    secrets: dict[str, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    token: str = ""

    def call(self, method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}", **headers}
        request = urllib.request.Request(f"{self.url}/api/v1{path}", data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
                return json.loads(text) if text else {}
        except urllib.error.HTTPError as error:
            self.refusals.append(error.read().decode() + str(error.headers))
            return {}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Site]:
    port, noti_port = free_port(), free_port()
    arguments = ["--data-dir", str(tmp_path / "data"), "--port", str(port), "--noti-port", str(noti_port)]
    environment = {**os.environ, "AIWM_ADMIN_PASSWORD": ADMIN, "AIWM_LOG_LEVEL": "DEBUG"}
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "aiwm", "up", *arguments], stdout=said, stderr=said, env=environment, cwd=tmp_path
        )
    try:
        deadline = time.monotonic() + 60
        while "ready in" not in (tmp_path / "said").read_text():
            assert process.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Site(tmp_path, process, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        assert process.wait(15) == 0


def _use(site: Site) -> None:
    """Signs in and out, makes users, nodes and keys, and gets everything wrong that can be got wrong."""
    pair = site.call("POST", "/auth/login", {"username": "admin", "password": ADMIN})
    pair = site.call("POST", "/auth/refresh", {"refreshToken": pair["refreshToken"]})
    site.token = pair["accessToken"]
    site.secrets |= {"access token": pair["accessToken"], "refresh token": pair["refreshToken"]}
    site.call("POST", "/users", {"username": "u", "password": USER, "roles": ["organization.viewer"]})
    node = site.call("POST", "/nodes", {"name": "n"})
    key = {"Idempotency-Key": "one"}
    site.secrets["node token"] = site.call("POST", f"/nodes/{node['nodeId']}/token", {}, **key)["token"]
    site.secrets["API key"] = site.call("POST", "/api-keys", {"name": "k", "scopes": ["manage"]}, **key)["key"]
    site.call("POST", f"/nodes/{node['nodeId']}/token", {}, **key)
    site.secrets["join token"] = site.call("POST", "/join-tokens", {}, **key)["token"]
    joining = {"joinToken": site.secrets["join token"], "name": "j", "joinKey": JOIN_KEY}
    site.secrets["joined node's token"] = site.call("POST", "/nodes/join", joining, **key)["token"]
    site.call("POST", "/nodes/join", {**joining, "joinKey": JOIN_KEY + "x"})
    site.call("POST", "/nodes/join", {**joining, "name": "a/b", "joinKey": [JOIN_KEY]})
    site.call("POST", "/auth/login", {"username": "admin", "password": WRONG})
    site.call("POST", "/auth/login", {"username": "admin", "password": [WRONG], WRONG: 1})
    site.call("POST", "/users", {"username": {"x": USER}, "password": USER, "roles": [USER]})
    site.call("POST", "/users", {"username": "v", "password": USER + "x" * 5000, "roles": []})
    site.call("POST", "/auth/refresh", {"refreshToken": pair["refreshToken"] + "x"})
    for scheme in ("Bearer", "Basic"):
        site.call("GET", "/nodes", None, Authorization=f"{scheme} {site.secrets['API key']}x")
    site.call("GET", "/blobs/" + site.secrets["node token"])


def _kept(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in _OWN_FILES:
            yield path


def test_no_secret_is_in_logs_store_queue_errors_or_process_listings(up: Site) -> None:
    _use(up)
    data = up.folder / "data"
    for name in ("jwt-secret", "encryption-key"):
        if (data / name).exists():
            up.secrets[name] = (data / name).read_text().strip()
    up.secrets |= {"admin's password": ADMIN, "user's password": USER, "wrong password": WRONG, "join key": JOIN_KEY}
    found = []
    searched = 0
    for path in [*_kept(data), up.folder / "said"]:
        content = path.read_bytes()
        searched += 1
        found += [
            f"{name} in {path.relative_to(up.folder)}" for name, each in up.secrets.items() if each.encode() in content
        ]
    family = [psutil.Process(up.process.pid), *psutil.Process(up.process.pid).children(recursive=True)]
    lines = [" ".join(each.cmdline()) for each in family]
    found += [f"{name} in the process list" for name, each in up.secrets.items() for line in lines if each in line]
    told = [text for text in up.refusals if WRONG not in text]
    found += [
        f"{name} in an answer: {text[:300]}" for name, each in up.secrets.items() for text in told if each in text
    ]
    assert found == []
    assert len(up.secrets) >= 8
    assert len(up.refusals) >= 8
    assert len(lines) >= 5
    assert searched >= 5
    for name in _OWN_FILES:
        assert not (data / name).exists() or stat.S_IMODE((data / name).stat().st_mode) == 0o600
