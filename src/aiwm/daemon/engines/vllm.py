"""vLLM: one server per replica, with that replica's model and its adapters under the deployment's name."""

import json
from collections.abc import Callable
from pathlib import Path

from aiwm.daemon import asking
from aiwm.daemon.engines import vllm_arguments as arguments
from aiwm.daemon.engines import vllm_errors, vllm_numbers
from aiwm.daemon.engines.base import EVERYWHERE, Address, EnginePlan, Listen, Ports, Trial, Verdict
from aiwm.daemon.engines.vllm_install import vllm_version
from aiwm.daemon.engines.vllm_model import ModelFiles, look_into
from aiwm.daemon.floors import numbers as version_numbers
from aiwm.protocol.engine_arguments import CHAT_TEMPLATE, names_template_file
from aiwm.protocol.engine_options import Option, options, wants_remote_code
from aiwm.protocol.errors import Invalid, Unavailable
from aiwm.protocol.node_channel import DeployCommand, EngineNumbers
from aiwm.protocol.resources.deployments import served_name

GpuMemory = Callable[[str], int | None]
"""How much memory the GPU of that name has in all, in MiB."""

_COMMAND = "vllm"
_TEMPLATE = "chat_template.jinja"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_SERVED = (404, 405, 501)


class VllmEngine:
    """`binary` is this machine's command; without one it runs in `image`, as does every order that names an image.

    `remote_code` is the operator's leave to run Python code that comes with a model.
    """

    def __init__(
        self,
        binary: Path | None,
        *,
        image: str | None = None,
        gpu_memory: GpuMemory = lambda _: None,
        remote_code: bool = False,
    ) -> None:
        self._binary, self._image = binary, image
        self._gpu_memory, self._remote_code = gpu_memory, remote_code

    def version(self) -> str | None:
        return None if self._binary is None else vllm_version(self._binary)

    def prepare(
        self,
        order: DeployCommand,
        artifact: Path,
        workspace: Path,
        ports: Ports,
        address: Address,
    ) -> EnginePlan:
        given = options(order.engine, order.engine_args)
        self._check_code(given)
        image = order.image or (self._image if self._binary is None else None)
        command = _COMMAND if image else self._command()
        bind = EVERYWHERE if image else address.bind
        model, served = look_into(artifact), served_name(order.deployment_name)
        gpus = order.gpu_device_ids
        argv = [
            command,
            "serve",
            str(model.path),
            f"--host={bind}",
            f"--port={ports.http}",
            f"--served-model-name={served}",
            *arguments.of_model(model),
            *arguments.of_gpus(len(gpus), model.heads, self._share(order), given),
            *arguments.of_task(order.artifact.task_type, None if image else self._numbers_of_version(), given),
            *arguments.of_adapters(model.adapters, served, given),
            *(_placed(each, artifact, model, workspace).text for each in given),
        ]
        variables = arguments.environment(order.environment_variables, gpus=len(gpus), ram=order.resources.ram)
        local = f"http://{address.local}:{ports.http}"
        return EnginePlan(
            argv=tuple(argv),
            environment=variables if image else {**variables, "PATH": f"{Path(command).parent}:{_SYSTEM_PATH}"},
            ready=(f"{local}/health",),
            image=image,
            entrypoint=image is not None,
            listens=(Listen(ports.http, abroad=True),),
            metrics=f"{local}/metrics",
        )

    def _check_code(self, given: list[Option]) -> None:
        if wants_remote_code(given) and not self._remote_code:
            raise Invalid(
                "cannot run the code that comes with the model: this node does not allow it; "
                "its operator can, with AIWM_TRUST_REMOTE_CODE=true",
                code="COMMAND_INVALID",
            )

    def _command(self) -> str:
        if self._binary is None or not self._binary.is_file():
            raise Unavailable(f"cannot run vllm: {self._binary or _COMMAND} is not there; check AIWM_VLLM_SERVER")
        return str(self._binary)

    def _numbers_of_version(self) -> tuple[int, ...] | None:
        version = self.version()
        return None if version is None else version_numbers(version)

    def _share(self, order: DeployCommand) -> float:
        asked = order.resources.gpu_memory or None
        totals = [self._gpu_memory(each) for each in order.gpu_device_ids] if asked is not None else []
        known = [each for each in totals if each]
        if len(known) < len(totals):
            raise Unavailable(
                f"cannot give {order.deployment_name} {asked} MiB of each GPU: how much memory they have is not known",
                code="GPU_NOT_AVAILABLE",
            )
        return arguments.memory_share(asked, known)

    async def try_out(self, order: DeployCommand, base: str) -> Trial:
        """One token, or one embedding; what serves neither is left untried."""
        body: dict[str, object] = {"model": served_name(order.deployment_name)}
        if order.artifact.task_type == "embedding":
            path, body = "/v1/embeddings", {**body, "input": "a"}
        else:
            path, body = "/v1/completions", {**body, "prompt": "a", "max_tokens": 1}
        headers = {"Content-Type": "application/json"}
        async with asking.session(base) as session:
            answer = await asking.post(session, path, json.dumps(body).encode(), headers)
        return judge_trial(answer.status, answer.text)

    def numbers(self, order: DeployCommand, page: str) -> EngineNumbers:  # noqa: ARG002 - it serves one model
        return vllm_numbers.read(page)

    def explain(self, log: str) -> str | None:
        return vllm_errors.explain(log)

    def port_taken(self, log: str) -> bool:
        return vllm_errors.port_taken(log)


def judge_trial(status: int, text: str) -> Trial:
    """What an answer means: models that embed, classify or listen have no completions, which is no fault of theirs."""
    if status == 200:
        return Trial(Verdict.WORKED)
    words = vllm_errors.words_of_answer(text)
    unserved = status in _NOT_SERVED and "model" not in words.lower()
    if unserved or "does not support" in words:
        return Trial(Verdict.UNTRIED, f"it has no such endpoint: {words}")
    return Trial(Verdict.FAILED, f"it answered {status}: {words}")


def _placed(option: Option, artifact: Path, model: ModelFiles, workspace: Path) -> Option:
    """A chat template under the whole path of its file: one of the model's, or one with the text that was given.

    vLLM is never given text, as it takes what it is given for a path first, and text can be the path of any file.
    """
    if option.name != CHAT_TEMPLATE or option.value is None:
        return option
    if not names_template_file(option.value):
        written = workspace / _TEMPLATE
        written.write_text(option.value, encoding="utf-8", errors="replace")
        return Option(option.name, str(written))
    home = model.path if model.path.is_dir() else model.path.parent
    root = artifact.resolve()
    for folder in (home, artifact):
        found = (folder / option.value).resolve()
        if found.is_file() and found.is_relative_to(root):
            return Option(option.name, str(found))
    raise Invalid(
        f"cannot use the chat template {option.value}: it is not among the model's files", code="COMMAND_INVALID"
    )
