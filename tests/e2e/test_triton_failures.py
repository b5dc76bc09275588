"""A Triton model that does not load: the engine's own error line reaches the user, in the status and in the events."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.up_support import Up, until

from aiwm.assets import MODEL
from aiwm.daemon.engines.triton_install import find_binary
from aiwm.protocol.errors import AiwmError
from aiwm.protocol.resources.deployments import Deployment
from aiwm.protocol.states import DeploymentStatus
from aiwm.sdk.client import Client

BROKEN = "raise RuntimeError('the weights are missing')\n"


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    if find_binary("") is None:
        pytest.skip("no tritonserver: pip install nvidia-pytriton==0.7.0")
    one = Up(tmp_path)
    one.start()
    yield one
    one.stop()


def broken_model(folder: Path) -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text((MODEL / "config.pbtxt").read_text())
    (folder / "1" / "model.py").write_text(BROKEN)
    return folder


async def tried(up: Up, folder: Path) -> tuple[Deployment, str]:
    async with Client(f"http://127.0.0.1:{up.port}") as client:
        await client.login("admin", (up.folder / "admin-password").read_text().strip())
        model = await client.models.create({"name": "broken", "framework": "triton"})
        await client.models.upload(model.model_id, broken_model(folder))
        await client.models.wait_ready(model.model_id)
        made = await client.deployments.create({"name": "broken", "modelId": model.model_id})
        with pytest.raises(AiwmError, match="the weights are missing"):
            await client.deployments.wait(made.deployment_id, timeout=60)
        seen = await client.deployments.wait(made.deployment_id, DeploymentStatus.FAILED, timeout=60)
        log = "".join([piece async for piece in client.deployments.logs(made.deployment_id)])
        await client.deployments.delete(made.deployment_id)
        await client.deployments.wait_gone(made.deployment_id)
        return seen, log


def test_a_model_that_does_not_load_fails_with_tritons_own_words(up: Up, tmp_path: Path) -> None:
    until(lambda: [each for each in up.nodes() if each["status"] == "online"])
    seen, log = asyncio.run(tried(up, tmp_path / "model"))
    assert "the weights are missing" in (seen.status_reason or "")
    assert any(each.severity == "error" and "the weights are missing" in each.message for each in seen.events)
    assert "the weights are missing" in log
    until(lambda: not list((up.folder / "node" / "replicas").iterdir()))
