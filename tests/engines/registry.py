"""A real registry on 127.0.0.1, open or behind a password. A slow one is `tests.link_proxy` before it, with `chunk` and
`pause` set: Docker follows the address it was asked at."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import servers

USER, PASSWORD = "lab", "open sesame"
# bcrypt of the password.
_HTPASSWD = "lab:$2b$04$HtGwFeZ8iTaG1pYcD6aflOVDNUz1c1wk1VLX5dYUjajkUHFF45gBi\n"
_CONFIG = """
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
_AUTH = "auth: {{htpasswd: {{realm: lab, path: {folder}/htpasswd}}}}\n"


@dataclass(frozen=True)
class Registry:
    """`host` is what image names begin with; `pid` its process."""

    host: str
    locked: bool
    pid: int

    @property
    def headers(self) -> dict[str, str]:
        """What makes Docker's API pull from it and push to it; empty when anyone may."""
        return credentials(USER, PASSWORD, self.host) if self.locked else {}


def credentials(user: str, password: str, host: str) -> dict[str, str]:
    """The header with which Docker's API is given them."""
    said = json.dumps({"username": user, "password": password, "serveraddress": host})
    return {"X-Registry-Auth": base64.urlsafe_b64encode(said.encode()).decode()}


@contextmanager
def registry(folder: Path, *, locked: bool = False) -> Iterator[Registry]:
    """An empty one that keeps its blobs in `folder`; `locked` asks for `USER` and `PASSWORD`, and else answers 401."""
    if shutil.which("docker-registry") is None:
        pytest.skip("no docker-registry: apt-get install docker-registry")
    port = servers.free_port()
    (folder / "htpasswd").write_text(_HTPASSWD)
    config = folder / "config.yml"
    config.write_text((_CONFIG + (_AUTH if locked else "")).format(folder=folder, port=port))
    command = ["docker-registry", "serve", str(config)]
    with servers.running(command, port, folder / "registry.log") as process:
        yield Registry(f"127.0.0.1:{port}", locked, process.pid)
