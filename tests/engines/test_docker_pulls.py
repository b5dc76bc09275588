"""Images from registries: pulled with progress and credentials, and refused or given up in words."""

import base64
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED_SERVERS
from tests.engines import images
from tests.engines.dockerd import Dockerd, dockerd
from tests.engines.registry import PASSWORD, USER, Registry
from tests.link_proxy import link_proxy

from aiwm.daemon.launchers.docker_api import DockerApi
from aiwm.daemon.launchers.docker_images import AllowList
from aiwm.daemon.launchers.docker_pull import Images
from aiwm.protocol.errors import AiwmError


def _own(request: pytest.FixtureRequest) -> AbstractContextManager[Dockerd]:
    return dockerd(pids=request.session.stash.setdefault(SHARED_SERVERS, set()))


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    """Where images are pushed from."""
    with _own(request) as one:
        images.add_busybox(one)
        yield one


@pytest.fixture(scope="module")
def docker(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    """What they are pulled to: it must not have their layers yet."""
    with _own(request) as one:
        yield one


@pytest.fixture
def told() -> list[str]:
    return []


async def provide(docker: Dockerd, image: str, told: list[str], *, allowed: str = "*", **given: Any) -> None:
    async def tell(words: str) -> None:
        told.append(words)

    api = DockerApi(docker.environment["DOCKER_HOST"])
    try:
        await Images(api, AllowList([allowed]), **given).provide(image, tell)
    finally:
        await api.close()


def pushed(source: Dockerd, registry: Registry, name: str) -> str:
    image = f"{registry.host}/{name}"
    source.push(images.BUSYBOX, image, registry.headers)
    return image


def forget(docker: Dockerd, image: str) -> None:
    docker.call("DELETE", f"/images/{image}", query={"force": "1"})


async def test_an_image_is_pulled_once_and_by_its_digest_too(
    docker: Dockerd, source: Dockerd, open_registry: Registry, told: list[str]
) -> None:
    image = pushed(source, open_registry, "team/engine:1")
    await provide(docker, image, told)
    assert told[0] == f"pulling {image}"
    told.clear()
    await provide(docker, image, told)
    pinned = docker.call("GET", f"/images/{image}/json")["RepoDigests"][0]
    await provide(docker, pinned, told)
    assert not told
    forget(docker, image)
    await provide(docker, pinned, told, allowed="*@sha256:*")
    assert told[0] == f"pulling {pinned}"
    forget(docker, pinned)


async def test_an_image_that_is_not_allowed_is_not_asked_for(docker: Dockerd, told: list[str]) -> None:
    with pytest.raises(AiwmError, match="AIWM_ALLOWED_IMAGES") as caught:
        await provide(docker, "127.0.0.1:1/evil:1", told, allowed="vllm/*")
    assert (caught.value.code, caught.value.retryable, told) == ("IMAGE_NOT_ALLOWED", False, [])


@pytest.mark.parametrize("name", ["team/nothing:1", "team/engine:nothing", f"team/engine@sha256:{'0' * 64}"])
async def test_an_image_that_is_missing_is_said(
    docker: Dockerd, source: Dockerd, open_registry: Registry, told: list[str], name: str
) -> None:
    pushed(source, open_registry, "team/engine:1")
    with pytest.raises(AiwmError, match="has no such image") as caught:
        await provide(docker, f"{open_registry.host}/{name}", told)
    assert (caught.value.code, caught.value.retryable) == ("CONTAINER_START_FAILED", False)


async def test_a_registry_that_wants_a_password_gets_the_operator_s(
    docker: Dockerd, source: Dockerd, locked_registry: Registry, told: list[str], tmp_path: Path
) -> None:
    image = pushed(source, locked_registry, "team/engine:1")
    with pytest.raises(AiwmError, match="AIWM_REGISTRY_AUTH_FILE") as caught:
        await provide(docker, image, told)
    assert (caught.value.code, caught.value.retryable) == ("CONTAINER_START_FAILED", False)
    auths = tmp_path / "config.json"
    for password in ("wrong", PASSWORD):
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        auths.write_text(json.dumps({"auths": {locked_registry.host: {"auth": auth}}}))
        if password == "wrong":
            with pytest.raises(AiwmError, match="other credentials") as caught:
                await provide(docker, image, told, auth_file=str(auths))
            assert password not in caught.value.message
    await provide(docker, image, told, auth_file=str(auths))
    assert PASSWORD not in " ".join(told)
    forget(docker, image)


async def test_a_registry_that_falls_silent_is_given_up(
    docker: Dockerd, source: Dockerd, open_registry: Registry, told: list[str]
) -> None:
    image = pushed(source, open_registry, "team/engine:1").partition("/")[2]
    async with link_proxy(f"http://{open_registry.host}") as proxy:
        proxy.deaf = True
        with pytest.raises(AiwmError, match="sent nothing for 1 s") as caught:
            await provide(docker, f"{proxy.url.removeprefix('http://')}/{image}", told, patience=1.0)
    assert (caught.value.code, caught.value.retryable) == ("NETWORK_ERROR", True)


async def test_a_slow_registry_shows_how_far_it_is(
    docker: Dockerd, source: Dockerd, open_registry: Registry, told: list[str]
) -> None:
    path = pushed(source, open_registry, "team/engine:1").partition("/")[2]
    async with link_proxy(f"http://{open_registry.host}") as proxy:
        proxy.chunk, proxy.pause = 16_384, 0.2
        image = f"{proxy.url.removeprefix('http://')}/{path}"
        await provide(docker, image, told, patience=5.0)
    assert told[0] == f"pulling {image}"
    assert any(" MiB of " in each for each in told)
    # At most once a second, however much Docker tells.
    assert len(told) < 20
    forget(docker, image)


async def test_a_registry_that_is_not_there_may_be_later(docker: Dockerd, told: list[str]) -> None:
    with pytest.raises(AiwmError, match="cannot pull") as caught:
        await provide(docker, "127.0.0.1:1/team/engine:1", told)
    assert (caught.value.code, caught.value.retryable) == ("NETWORK_ERROR", True)
