"""The real Triton server in a container, with the launchers and engines of a real node."""

from pathlib import Path

import aiohttp
from tests.daemon_support import QUICK, TOKEN, controller, order, running, until
from tests.e2e.test_triton_engine import BROKEN, CONFIG, DOUBLER
from tests.engines.dockerd import Dockerd
from tests.engines.node import called, stop

from aiwm.daemon.daemon import Daemon
from aiwm.kit.settings import Settings


async def test_a_model_is_served_from_a_container_and_nothing_is_left(
    docker: Dockerd, triton_image: str, tmp_path: Path
) -> None:
    async with controller() as one:
        settings = Settings(
            data_dir=tmp_path,
            controller_url=one.url,
            node_token=TOKEN,
            docker_host=docker.environment["DOCKER_HOST"],
            triton_image=triton_image,
        )
        async with running(Daemon(settings, policy=QUICK)):
            await until(lambda: one.of("node.register"))
            assert one.of("node.register")[0]["data"]["launchers"][0] == "docker"
            artifact = one.add_files({"config.pbtxt": CONFIG, "1/model.py": DOUBLER})
            resources = {"ram": 2048}
            wanted = order(artifact, image=triton_image, resources=resources)
            result = await one.result(await one.command("command.deploy", wanted.to_wire()), 60)
            assert result["status"] == "success", result
            endpoint = result["result"]["endpoint"]
            question = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [2], "data": [1.5, 2]}]}
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{endpoint}/v2/models/demo/infer", json=question) as answer,
            ):
                assert (await answer.json())["outputs"][0]["data"] == [3.0, 4.0]
            found = await called(docker, "GET", "/containers/engine-001/json")
            assert not [each for each in found["Config"]["Env"] if TOKEN in each]
            assert len(found["HostConfig"]["PortBindings"]) == 3
            assert (await stop(one))["status"] == "success"


async def test_what_a_model_lacks_is_said_in_tritons_words(docker: Dockerd, triton_image: str, tmp_path: Path) -> None:
    async with controller() as one:
        settings = Settings(
            data_dir=tmp_path,
            controller_url=one.url,
            node_token=TOKEN,
            docker_host=docker.environment["DOCKER_HOST"],
            triton_image=triton_image,
        )
        async with running(Daemon(settings, policy=QUICK)):
            await until(lambda: one.of("node.register"))
            wanted = order(one.add_files({"config.pbtxt": CONFIG, "1/model.py": BROKEN}), image=triton_image)
            result = await one.result(await one.command("command.deploy", wanted.to_wire()), 60)
            assert "the weights are for another model" in result["error"]["message"]
            await stop(one)
            fetched = len(one.fetched)
            refused = order(one.add_files({"other": b""}), image="evil.example/any:1", generation=2)
            result = await one.result(await one.command("command.deploy", refused.to_wire()), 30)
            assert result["error"]["code"] == "IMAGE_NOT_ALLOWED"
            assert "AIWM_ALLOWED_IMAGES" in result["error"]["message"]
            assert len(one.fetched) == fetched
