"""What clumsy and hostile users send: each a clear refusal by code, and nothing half-made left behind."""

import io
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aiwm.testing.road import model_is, ready_model, upload
from aiwm.testing.world import World, eventually, open_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


def tar(add: Callable[[tarfile.TarFile], None]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        add(archive)
    return out.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, target, 0
        archive.addfile(member, io.BytesIO())

    return add


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(80 * 2**20))
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.tar.gz", tar(_member("../outside")), "outside"),
        ("m.tar.gz", tar(_member("/etc/cron.d/x")), "/etc/cron.d/x"),
        ("m.tar.gz", tar(_member("link", tarfile.SYMTYPE, "/etc/passwd")), "link"),
        ("m.tar.gz", tar(_member("hard", tarfile.LNKTYPE, "config.pbtxt")), "link"),
        ("m.tar.gz", tar(_member("device", tarfile.CHRTYPE)), "device"),
        ("m.zip", bomb(), "more than is allowed"),
        ("m.zip", b"PK nothing", "archive"),
        ("m.tar.gz", tar(lambda _: None), "no file"),
    ],
)
async def test_a_hostile_archive_fails_its_model_with_the_reason_and_leaves_nothing(
    world: World, name: str, content: bytes, reason: str
) -> None:
    made = await world.call("POST", "/api/v1/models", json={"name": "bad", "framework": "triton"}, expect=201)
    model_id = str(made["modelId"])
    await upload(world, model_id, {name: content}, unpack=True)
    await eventually(lambda: model_is(world, model_id, "failed"))
    model: Any = await world.call("GET", f"/api/v1/models/{model_id}", expect=200)
    assert reason in model["error"]
    assert (model["files"], model["size"], model["storagePath"]) == ([], 0, "")

    async def nothing_left() -> bool:
        return not await world.infra.objects.below(f"models/{model_id}")

    await eventually(nothing_left)
    await upload(world, model_id, {"config.pbtxt": b"x"})
    await eventually(lambda: model_is(world, model_id, "ready"))


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("nodes", {"name": "n", "colour": "red"}, "colour"),
        ("nodes", {"name": "n" * 129}, "name"),
        ("nodes", {"name": 7}, "name"),
        ("nodes", {"name": "n", "role": ["queen"]}, "role[0]"),
        ("nodes", {"name": "n", "owner": {"orgId": None}}, "owner"),
        ("nodes", {}, "name"),
        ("models", {"name": "m", "framework": "magic"}, "framework"),
        ("models", {"name": "m", "downloadStatus": "ready"}, "downloadStatus"),
        ("models", {"name": "a/b"}, "name"),
        ("deployments", {"name": "d"}, "modelId"),
        ("deployments", {"name": "d", "modelId": "model-1", "replicas": 1000}, "replicas"),
        ("deployments", {"name": "d", "modelId": "model-1", "status": "running"}, "status"),
        ("deployments", {"name": "d", "modelId": "model-1", "resources": {"gpus": 1}}, "resources.gpus"),
        (
            "deployments",
            {"name": "d", "modelId": "model-1", "environmentVariables": {"A B": "x"}},
            "environmentVariables",
        ),
        ("deployments", {"name": "d", "modelId": "../etc"}, "modelId"),
    ],
)
async def test_a_create_that_does_not_fit_names_the_field(
    world: World, path: str, body: dict[str, object], field: str
) -> None:
    answer: Any = await world.call("POST", f"/api/v1/{path}", json=body, expect=422)
    assert answer["code"] == "VALIDATION_FAILED"
    assert any(error["field"].startswith(field) for error in answer["errors"]), answer["errors"]
    listed: Any = await world.call("GET", f"/api/v1/{path}", expect=200)
    assert listed["data"] == []


async def test_what_this_release_cannot_do_is_said_so(world: World) -> None:
    hub = {"name": "w", "huggingfaceRepo": "openai/whisper-large-v3"}
    assert (await world.call("POST", "/api/v1/models", json=hub, expect=422))["code"] == "SOURCE_NOT_SUPPORTED"
    spread = {"name": "d", "modelId": await ready_model(world), "deploymentType": "distributed"}
    assert (await world.call("POST", "/api/v1/deployments", json=spread, expect=422))["code"] == "NOT_SUPPORTED"


async def test_inference_of_what_does_not_run_says_why_in_the_shape_of_its_api(world: World) -> None:
    made: Any = await world.call(
        "POST", "/api/v1/deployments", json={"name": "digits", "modelId": await ready_model(world)}, expect=201
    )
    for path in (
        "/v2/models/digits/infer",
        f"/api/v1/deployments/{made['deploymentId']}/inference/v2/models/digits/infer",
    ):
        async with world.http.post(f"{world.url}{path}", json={}) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
            assert "digits" in (await answer.json())["error"]
    async with world.http.post(f"{world.url}/v2/models/nobody/infer", json={}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "MODEL_NOT_FOUND")
    async with world.http.post(f"{world.url}/v2/models/digits/infer", json={}, headers={"Authorization": ""}) as answer:
        assert answer.status == 401
        assert set(await answer.json()) == {"error", "code"}
