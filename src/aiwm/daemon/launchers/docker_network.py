"""The network that containers are in: each reaches what is beyond this machine, and none another."""

from typing import Any

from aiwm.daemon.launchers.docker_api import DockerApi, Refused
from aiwm.daemon.launchers.docker_config import MANAGED
from aiwm.daemon.replicas import shorten
from aiwm.protocol.errors import AiwmError, Conflict

NETWORK = "aiwm"
_APART = "com.docker.network.bridge.enable_icc"
_CONFIG = {
    "Name": NETWORK,
    "CheckDuplicate": True,
    "Driver": "bridge",
    "Labels": {MANAGED: "1"},
    "Options": {_APART: "false"},
}


async def provided(api: DockerApi) -> str:
    """The network's id; it is made where there is none. Raises `AiwmError`."""
    found = await api.networks(NETWORK)
    if not found:
        await _make(api)
        found = await api.networks(NETWORK)
    if not found or not all(map(_is_ours, found)):
        raise Conflict(
            f"cannot start the engine: a network that is not AIWM's has the name {NETWORK}; "
            f"remove it: docker network rm {NETWORK}",
            code="CONTAINER_START_FAILED",
        )
    # Two daemons that begin at once may each have made one: all then take the same.
    return str(min(found, key=lambda each: (each["Created"], each["Id"]))["Id"])


async def _make(api: DockerApi) -> None:
    try:
        await api.make_network(_CONFIG)
    except Refused as error:
        # Another daemon was first.
        if error.answer != 409:
            raise AiwmError(
                shorten(f"cannot start the engine: Docker cannot make the network {NETWORK}: {error.words}"),
                code="CONTAINER_START_FAILED",
            ) from error


def _is_ours(network: dict[str, Any]) -> bool:
    labels, options = network["Labels"] or {}, network["Options"] or {}
    return labels.get(MANAGED) == "1" and options.get(_APART) == "false"
