"""The demo on vLLM: a Llama so small that its text is noise and everything around it is real.

No weights are fetched: vLLM's own Python environment makes them, in seconds.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path

from aiwm.assets import TINY_LLM
from aiwm.cli.demo_subjects import Say
from aiwm.kit.settings import load_settings
from aiwm.protocol.errors import BadUpstream, Unavailable
from aiwm.protocol.resources.deployments import Deployment, served_name
from aiwm.protocol.resources.models import ModelCreate
from aiwm.protocol.states import EngineName, Framework, TaskType
from aiwm.sdk.client import Client

_TOKENS = 8
_QUESTION = [{"role": "user", "content": "What does a node do?"}]
_MISSING = "this machine has no vLLM; put its `vllm` command on PATH, or set AIWM_VLLM_SERVER"


class Talker:
    """Asked for a chat's answer, twice at temperature 0, whole and as a stream: all three must agree."""

    engine = EngineName.VLLM
    model = ModelCreate(name="tiny-llm", framework=Framework.SAFETENSORS, task_type=TaskType.LLM)
    deployment = "tiny-llm-demo"
    missing = _MISSING
    start_seconds = 900.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def files(self) -> Path:
        self._folder.mkdir()
        process = await asyncio.create_subprocess_exec(
            *(_interpreter(), str(TINY_LLM), str(self._folder)),
            # What torch puts by goes with the demo.
            env={**os.environ, "TMPDIR": str(self._folder)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise Unavailable(f"cannot make the model: vLLM's Python says: {last}", code="ENGINE_MISSING")
        return self._folder / "model"

    async def ask(self, client: Client, deployment: Deployment, say: Say) -> None:
        whole, again = await _chat(client, deployment), await _chat(client, deployment)
        streamed = await _stream(client, deployment)
        if not whole == again == streamed:
            raise BadUpstream(f"cannot trust the engine: it said {whole!r}, {again!r} and, streamed, {streamed!r}")
        place = deployment.endpoint.partition("://")[2]
        say(f"asked over {place}/v1/chat/completions, whole and as a stream: {_TOKENS} tokens, the same each time")


async def _chat(client: Client, deployment: Deployment) -> str:
    answer = json.loads(await _asked(client, deployment, stream=False))
    if answer["usage"]["completion_tokens"] != _TOKENS:
        raise BadUpstream(f"cannot trust the engine: asked for {_TOKENS} tokens it counts {answer['usage']}")
    return str(answer["choices"][0]["message"]["content"])


async def _stream(client: Client, deployment: Deployment) -> str:
    lines = (await _asked(client, deployment, stream=True)).decode().splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    if events[-1:] != ["[DONE]"]:
        raise BadUpstream("cannot trust the engine: its stream has no end")
    choices = (choice for event in events[:-1] for choice in json.loads(event)["choices"])
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def _asked(client: Client, deployment: Deployment, *, stream: bool) -> bytes:
    body: dict[str, object] = {
        "model": served_name(deployment.name),
        "messages": _QUESTION,
        "max_tokens": _TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }
    answer = await client.inference.raw(deployment.deployment_id, "POST", "v1/chat/completions", json=body)
    if answer.status != 200:
        raise BadUpstream(f"cannot ask the engine: it answered {answer.status}: {answer.body[:200]!r}")
    return answer.body


def _interpreter() -> str:
    """The Python that runs vLLM's command, as the command's first line says."""
    command = load_settings().vllm_server or shutil.which("vllm")
    if not command:
        raise Unavailable(f"cannot go on: {_MISSING}", code="ENGINE_MISSING")
    try:
        with Path(command).open("rb") as file:
            first = file.readline(4096).decode(errors="replace").strip()
    except OSError as error:
        raise Unavailable(f"cannot read {command}: {error.strerror}", code="ENGINE_MISSING") from error
    if not first.startswith("#!/"):
        raise Unavailable(f"cannot make the model: {command} does not say which Python runs it", code="ENGINE_MISSING")
    return first.removeprefix("#!")
