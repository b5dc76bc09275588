"""The first steps of the main road, over REST, for tests and benchmarks that begin further along."""

import hashlib
from collections.abc import Mapping
from typing import Any

from aiwm.testing.world import World, eventually

TINY_MODEL: Mapping[str, bytes] = {
    "config.pbtxt": b'backend: "python"\n',
    "1/model.py": b"class TritonPythonModel: ...\n",
    "1/empty": b"",
}


async def upload(world: World, model_id: str, files: Mapping[str, bytes], **extra: object) -> None:
    """Uploads files of one part each and asks for their verification."""
    wanted = [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
    ]
    body = {"files": wanted, **extra}
    begun: Any = await world.call("POST", f"/api/v1/models/{model_id}/uploads", json=body, expect=201)
    done = []
    for file in begun["files"]:
        (part,) = file["parts"]
        async with world.http.put(part["url"], data=files[file["path"]], headers={"Authorization": ""}) as answer:
            assert answer.status == 200, await answer.text()
            done.append({"path": file["path"], "parts": [{"partNumber": 1, "etag": answer.headers["ETag"]}]})
    path = f"/api/v1/models/{model_id}/uploads/{begun['uploadId']}/complete"
    await world.call("POST", path, json={"files": done}, expect=202)


async def model_is(world: World, model_id: str, status: str) -> bool:
    """Whether a model's files are in that state."""
    return (await world.call("GET", f"/api/v1/models/{model_id}", expect=200))["downloadStatus"] == status


async def ready_model(world: World, name: str = "digits", files: Mapping[str, bytes] = TINY_MODEL) -> str:
    """Registers a model, uploads its files and waits until it is ready; its id."""
    model = await world.call("POST", "/api/v1/models", json={"name": name, "framework": "triton"}, expect=201)
    model_id = str(model["modelId"])
    await upload(world, model_id, files)
    await eventually(lambda: model_is(world, model_id, "ready"))
    return model_id
