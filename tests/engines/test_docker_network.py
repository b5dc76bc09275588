"""The network that containers are in: one for all daemons of a machine, and never somebody else's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.engines.docker_api import DockerError
from tests.engines.dockerd import Dockerd
from tests.engines.node import called

from aiwm.daemon.launchers.docker_api import DockerApi, Refused
from aiwm.daemon.launchers.docker_network import provided
from aiwm.protocol.errors import AiwmError, Conflict


@pytest.fixture
async def bare(docker: Dockerd) -> AsyncIterator[Dockerd]:
    """Without a network of the name, before and after."""
    await _remove(docker)
    yield docker
    await _remove(docker)


async def _named(docker: Dockerd) -> list[dict[str, Any]]:
    return [each for each in await called(docker, "GET", "/networks") if each["Name"] == "aiwm"]


async def _remove(docker: Dockerd) -> None:
    for each in await _named(docker):
        with contextlib.suppress(DockerError):
            await called(docker, "DELETE", f"/networks/{each['Id']}")


async def test_daemons_that_begin_at_once_take_the_same(bare: Dockerd) -> None:
    apis = [DockerApi(bare.environment["DOCKER_HOST"]) for _ in range(4)]
    try:
        await asyncio.gather(*(provided(each) for each in apis))
        later = await asyncio.gather(*(provided(each) for each in apis))
    finally:
        for each in apis:
            await each.close()
    assert len(set(later)) == 1
    (one,) = [each for each in await _named(bare) if each["Id"] == later[0]]
    assert one["Labels"] == {"ai.aiwm.managed": "1"}
    assert one["Options"] == {"com.docker.network.bridge.enable_icc": "false"}


async def test_a_network_of_others_is_not_taken(bare: Dockerd) -> None:
    await called(bare, "POST", "/networks/create", body={"Name": "aiwm"})
    api = DockerApi(bare.environment["DOCKER_HOST"])
    try:
        with pytest.raises(Conflict, match="docker network rm aiwm"):
            await provided(api)
    finally:
        await api.close()


class Unwilling(DockerApi):
    async def make_network(self, config: object) -> None:
        raise Refused(403, "all predefined address pools have been fully subnetted")


async def test_a_network_that_cannot_be_made_is_said(bare: Dockerd) -> None:
    api = Unwilling(bare.environment["DOCKER_HOST"])
    try:
        with pytest.raises(AiwmError, match="cannot make the network aiwm: all predefined address pools"):
            await provided(api)
    finally:
        await api.close()
