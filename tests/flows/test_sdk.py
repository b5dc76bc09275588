"""The SDK against a whole installation in this process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiwm.kit.context import correlated
from aiwm.protocol.errors import Conflict, Invalid, NotFound, Stale, Unauthenticated, Unavailable
from aiwm.protocol.resources.deployments import DeploymentCreate
from aiwm.protocol.resources.models import ModelCreate
from aiwm.protocol.resources.nodes import NodeCreate
from aiwm.protocol.states import DeploymentStatus, Framework
from aiwm.sdk import Client, Tensor, UploadProgress
from aiwm.testing.world import ADMIN_PASSWORD, World, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "world") as opened:
        yield opened


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with Client(world.url) as opened:
        await opened.login("admin", ADMIN_PASSWORD)
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "1").mkdir(parents=True)
    (made / "config.pbtxt").write_text('backend: "python"\n')
    (made / "1" / "model.py").write_bytes(b"x" * 3_000_000)
    (made / "1" / "empty").touch()
    return made


async def ready_model(client: Client, folder: Path, name: str = "digits") -> str:
    made = await client.models.create(ModelCreate(name=name, framework=Framework.TRITON))
    await client.models.upload(made.model_id, folder)
    return (await client.models.wait_ready(made.model_id, timeout=10)).model_id


async def test_a_login_says_who_one_is(client: Client) -> None:
    who = await client.me()
    assert (who.username, who.roles) == ("admin", ["universe.owner"])


async def test_a_wrong_password_is_told_apart(world: World) -> None:
    async with Client(world.url) as client:
        with pytest.raises(Unauthenticated) as refused:
            await client.login("admin", "wrong")
        assert refused.value.code == "CREDENTIALS_WRONG"
        assert refused.value.details["correlationId"]


async def test_a_controller_that_is_away_is_named() -> None:
    async with Client("http://127.0.0.1:9") as client:
        with pytest.raises(Unavailable, match=r"^cannot reach http://127\.0\.0\.1:9: .*; is AIWM running there\?$"):
            await client.me()


async def test_a_client_that_is_not_open_says_how_to_open_it() -> None:
    with pytest.raises(RuntimeError, match="async with Client"):
        await Client("http://127.0.0.1:9").me()


async def test_nodes_are_created_found_changed_and_deleted(client: Client) -> None:
    made = await client.nodes.create(NodeCreate(name="gpu-1", labels={"zone": "a"}))
    assert await client.nodes.resolve("gpu-1") == made.node_id
    assert await client.nodes.resolve(made.node_id) == made.node_id
    changed = await client.nodes.patch(made.node_id, {"labels": {"zone": "b"}}, if_version=made.resource_version)
    assert changed.labels == {"zone": "b"}
    with pytest.raises(Stale):
        await client.nodes.patch(made.node_id, {"labels": {}}, if_version=made.resource_version)
    token = await client.nodes.token(made.node_id, expires_in=600)
    assert token.token
    await client.nodes.delete(made.node_id)
    with pytest.raises(NotFound, match="gpu-1"):
        await client.nodes.resolve("gpu-1")


async def test_a_list_is_read_to_its_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiwm.sdk.nouns.MAX_PAGE", 2)
    for number in range(5):
        await client.nodes.create(NodeCreate(name=f"gpu-{number}"))
    assert [each.name async for each in client.nodes.all(sort="name")] == [f"gpu-{number}" for number in range(5)]
    page = await client.nodes.list(page=2, limit=2, sort="-name")
    assert [each.name for each in page.data] == ["gpu-2", "gpu-1"]
    assert page.pagination.total == 5


async def test_a_name_that_several_models_have_must_be_told_apart_by_id(client: Client) -> None:
    for version in ("1", "2"):
        await client.models.create({"name": "digits", "version": version})
    with pytest.raises(Conflict) as refused:
        await client.models.resolve("digits")
    assert refused.value.code == "NAME_AMBIGUOUS"


async def test_a_body_that_does_not_fit_is_told_field_by_field(client: Client) -> None:
    with pytest.raises(Invalid) as refused:
        await client.nodes.create({"name": "", "colour": "red"})
    assert {each.field for each in refused.value.fields} == {"name", "colour"}


async def test_an_idempotency_key_creates_once(client: Client) -> None:
    first = await client.nodes.create({"name": "gpu-1"}, idempotency_key="once")
    again = await client.nodes.create({"name": "gpu-1"}, idempotency_key="once")
    assert again.node_id == first.node_id


async def test_an_uploaded_folder_becomes_a_ready_model(client: Client, folder: Path) -> None:
    made = await client.models.create(ModelCreate(name="digits", framework=Framework.TRITON))
    heard: list[UploadProgress] = []
    await client.models.upload(made.model_id, folder, on_progress=heard.append)
    model = await client.models.wait_ready(made.model_id, timeout=10)
    assert model.size == 3_000_000 + len('backend: "python"\n')
    files = await client.models.files(made.model_id)
    assert sorted(file.path for file in files) == ["1/empty", "1/model.py", "config.pbtxt"]
    for phase in ("hashing", "sending"):
        steps = [each.bytes_done for each in heard if each.phase == phase]
        assert steps[0] == 0
        assert steps[-1] == model.size
        assert steps == sorted(steps)


async def test_a_model_that_is_no_good_says_why(client: Client, tmp_path: Path) -> None:
    archive = tmp_path / "broken.tar"
    archive.write_bytes(b"no archive at all" * 100)
    made = await client.models.create({"name": "broken"})
    await client.models.upload(made.model_id, archive, unpack=True)
    with pytest.raises(Conflict) as refused:
        await client.models.wait_ready(made.model_id, timeout=10)
    assert refused.value.code == "MODEL_FAILED"
    assert refused.value.message


async def test_a_deployment_goes_its_whole_road(world: World, client: Client, folder: Path) -> None:
    node_id = await world.node("gpu-1")
    params = DeploymentCreate(name="digits", model_id=await ready_model(client, folder))
    assert [each.node_id for each in (await client.deployments.plan(params)).placements] == [node_id]
    with correlated("corr-of-a-test"):
        made = await client.deployments.create(params)
    running = await client.deployments.wait(made.deployment_id, timeout=10)
    assert [each.node_id for each in await client.deployments.replicas(made.deployment_id)] == [node_id]
    assert running.events[0].event == (await client.deployments.events(made.deployment_id))[0].event
    await client.deployments.stop(made.deployment_id)
    await client.deployments.wait(made.deployment_id, DeploymentStatus.STOPPED, timeout=10)
    await client.deployments.start(made.deployment_id)
    again = await client.deployments.wait(made.deployment_id, "running", timeout=10)
    assert again.generation == again.observed_generation > running.generation
    await client.deployments.delete(made.deployment_id)
    await client.deployments.wait_gone(made.deployment_id, timeout=10)


async def test_a_log_is_read_as_text(world: World, client: Client, folder: Path) -> None:
    await world.node("gpu-1")
    made = await client.deployments.create({"name": "digits", "modelId": await ready_model(client, folder)})
    await client.deployments.wait(made.deployment_id, timeout=10)
    assert "".join([text async for text in client.deployments.logs(made.deployment_id)]) == ""


async def test_asking_what_does_not_run_says_so(client: Client, folder: Path) -> None:
    made = await client.deployments.create({"name": "digits", "modelId": await ready_model(client, folder)})
    pixels = Tensor(name="PIXELS", datatype="FP32", shape=[1, 1], data=[0.0])
    with pytest.raises(Unavailable, match="digits"):
        await client.inference.infer("digits", [pixels])
    answer = await client.inference.raw(made.deployment_id, "GET", "v2/health/ready")
    assert answer.status == 503
    assert answer.headers["Retry-After"]


async def test_asking_for_what_is_not_there_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound) as refused:
        await client.inference.infer("nobody", [])
    assert refused.value.details["correlationId"]


async def test_one_correlation_id_can_go_along_with_everything(world: World) -> None:
    async with Client(world.url, correlation_id="corr-mine") as client:
        with pytest.raises(Unauthenticated) as refused:
            await client.me()
        assert refused.value.details["correlationId"] == "corr-mine"
