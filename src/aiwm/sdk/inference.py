"""Inference: KServe v2 by deployment name, and anything else an engine speaks, as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ConfigDict, Field

from aiwm.protocol.errors import BadUpstream
from aiwm.sdk.transport import Body, Transport, read_as

_INFERENCE_SECONDS = 600.0


class Tensor(BaseModel):
    """One named input or output of KServe v2: `datatype` like `FP32`, `data` flat or nested as `shape` says."""

    model_config = ConfigDict(extra="ignore")

    name: str
    datatype: str
    shape: list[int]
    data: list[object]


class InferResult(BaseModel):
    """What a model answered."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model_name: str
    model_version: str | None = None
    id: str | None = None
    outputs: list[Tensor] = Field(default_factory=list)

    def output(self, name: str) -> Tensor:
        """One output by name. Raises `BadUpstream` when the model has none of that name."""
        for tensor in self.outputs:
            if tensor.name == name:
                return tensor
        there = ", ".join(tensor.name for tensor in self.outputs) or "none"
        raise BadUpstream(f"cannot find output {name!r} of {self.model_name}: it answered {there}")


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An engine's answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Inference:
    """`client.inference`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def infer(
        self,
        deployment_name: str,
        inputs: Sequence[Tensor],
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, object] | None = None,
        request_id: str | None = None,
    ) -> InferResult:
        """Asks a running deployment, by its name; only `outputs`, where given. Raises `Unavailable` when none runs."""
        body: dict[str, object] = {"inputs": [tensor.model_dump() for tensor in inputs]}
        if outputs is not None:
            body["outputs"] = [{"name": name} for name in outputs]
        if parameters:
            body["parameters"] = dict(parameters)
        if request_id is not None:
            body["id"] = request_id
        path = f"/v2/models/{quote(deployment_name, safe='')}/infer"
        return read_as(InferResult, await self._transport.request("POST", path, json=body))

    async def raw(
        self,
        deployment_id: str,
        method: str,
        path: str,
        *,
        json: Body = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RawAnswer:
        """Sends a request to a deployment's engine and returns whatever it answers, also what is not 2xx."""
        full = f"/api/v1/deployments/{quote(deployment_id, safe='')}/inference/{path.lstrip('/')}"
        timeout = aiohttp.ClientTimeout(total=_INFERENCE_SECONDS, sock_connect=10.0)
        async with self._transport.answer(
            method, full, json=json, data=data, headers=headers, timeout=timeout, check=False
        ) as answer:
            return RawAnswer(answer.status, dict(answer.headers), await answer.read())
