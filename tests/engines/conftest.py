"""What tests with real engines share: one dockerd for the session with the images that a test asks for, and registries.

A test that stops, kills or restarts dockerd takes one of its own: `with dockerd(live_restore=…) as one`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import SHARED_SERVERS
from tests.engines import images, vllm
from tests.engines.dockerd import Dockerd, dockerd
from tests.engines.registry import Registry, registry


@pytest.fixture(scope="session")
def session_docker(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    with dockerd(pids=request.session.stash.setdefault(SHARED_SERVERS, set())) as one:
        yield one


@pytest.fixture
def docker(session_docker: Dockerd) -> Iterator[Dockerd]:
    """The session's dockerd; fails a test that leaves containers or volumes, and removes them."""
    yield session_docker
    if left := session_docker.left_behind():
        pytest.fail(f"left in Docker: {', '.join(left)}")


@pytest.fixture(scope="session")
def busybox_image(session_docker: Dockerd) -> str:
    return images.add_busybox(session_docker)


@pytest.fixture(scope="session")
def triton_image(session_docker: Dockerd) -> str:
    return images.add_triton(session_docker)


@pytest.fixture(scope="session")
def vllm_image(session_docker: Dockerd) -> str:
    return images.add_vllm(session_docker)


def _shared(request: pytest.FixtureRequest, folder: Path, *, locked: bool) -> Iterator[Registry]:
    shared: set[int] = request.session.stash.setdefault(SHARED_SERVERS, set())
    with registry(folder, locked=locked) as one:
        shared.add(one.pid)
        yield one


@pytest.fixture(scope="session")
def open_registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    yield from _shared(request, tmp_path_factory.mktemp("registry"), locked=False)


@pytest.fixture(scope="session")
def locked_registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    yield from _shared(request, tmp_path_factory.mktemp("registry"), locked=True)


@pytest.fixture(scope="session")
def tiny_llm() -> Path:
    return vllm.tiny_llm()
