"""What a private registry is told: read from the operator's file for each pull, and kept nowhere."""

import base64
import json
from pathlib import Path
from typing import Any

from aiwm.daemon.launchers.docker_images import Image
from aiwm.protocol.errors import AiwmError

_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")


def registry_header(file: str, image: Image) -> dict[str, str]:
    """Docker's header with the registry's credentials; empty when the file has none for it. Raises `AiwmError`."""
    if not file:
        return {}
    try:
        entry = _entry(json.loads(Path(file).read_bytes())["auths"], image.registry)
        told = None if entry is None else _told(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # Never the content: an error of the parser may quote what it stumbled over.
        reason = error.strerror if isinstance(error, OSError) else "it is not as `docker login` writes it"
        raise AiwmError(
            f"cannot read the registries' credentials from {file}: {reason}; correct AIWM_REGISTRY_AUTH_FILE",
            code="CONTAINER_START_FAILED",
        ) from None
    if told is None:
        return {}
    text = json.dumps(told | {"serveraddress": image.registry})
    return {"X-Registry-Auth": base64.urlsafe_b64encode(text.encode()).decode()}


def _entry(auths: dict[str, Any], registry: str) -> dict[str, Any] | None:
    names = _HUB if registry in _HUB else (registry,)
    return next((entry for server, entry in auths.items() if _host(server) in names), None)


def _host(server: str) -> str:
    """Older files have URLs: https://index.docker.io/v1/."""
    return server.partition("://")[2].partition("/")[0] if "://" in server else server.partition("/")[0]


def _told(entry: dict[str, Any]) -> dict[str, str]:
    if "identitytoken" in entry:
        return {"identitytoken": str(entry["identitytoken"])}
    if "auth" in entry:
        username, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        return {"username": username, "password": password}
    return {"username": str(entry["username"]), "password": str(entry["password"])}
