"""One tiny inference with a Triton model, whose input is made up from what the model says that it takes."""

import json
import math
from typing import Any
from urllib.parse import quote

import aiohttp

from aiwm.daemon import asking
from aiwm.daemon.engines.base import Trial, Verdict

_MOST_BYTES = 64 * 2**20
_MOST_TOLD = 4 * 2**20
_MOST_DIMENSIONS = 64
# What one element of zeros weighs in Triton's binary form; a text's is its length, 0.
_ELEMENT_BYTES = {"BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT32": 4}
_ELEMENT_BYTES |= {"UINT32": 4, "FP32": 4, "BYTES": 4, "INT64": 8, "UINT64": 8, "FP64": 8}
_HEADER = "Inference-Header-Content-Length"


class CannotTryError(Exception):
    """Why no input can be made up."""


async def try_model(base: str, name: str) -> Trial:
    """Asks the model for an answer to zeros and empty texts. Raises `aiohttp.ClientError` where nothing answers."""
    async with asking.session(base) as session:
        try:
            config = await _told(session, f"{_path(name)}/config")
            for each in [config, *[await _told(session, f"{_path(step)}/config") for step in _steps(config)]]:
                check(each)
            body, length = request_of(await _told(session, _path(name)), optional_inputs(config))
        except CannotTryError as reason:
            return Trial(Verdict.UNTRIED, str(reason))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            return Trial(Verdict.UNTRIED, f"what Triton says of the model cannot be read: {error!r}")
        headers = {_HEADER: str(length), "Content-Type": "application/octet-stream"}
        answer = await asking.post(session, f"{_path(name)}/infer", body, headers)
        return Trial(Verdict.WORKED) if answer.status == 200 else Trial(Verdict.DOUBTED, _words(answer.text))


def check(config: dict[str, Any]) -> None:
    """Raises `CannotTryError` for a model that a single made-up request tells nothing about, or would disturb."""
    name = config.get("name")
    if "sequence_batching" in config:
        raise CannotTryError(f"{name} takes sequences of requests")
    if (config.get("model_transaction_policy") or {}).get("decoupled"):
        raise CannotTryError(f"{name} answers a request as often as it likes")
    if config.get("model_warmup"):
        raise CannotTryError(f"Triton itself tried {name} with its model_warmup")
    if any(each.get("is_shape_tensor") for each in config.get("input", [])):
        raise CannotTryError(f"{name} takes shapes as values")


def optional_inputs(config: dict[str, Any]) -> set[str]:
    """Inputs that a request may leave out."""
    return {each["name"] for each in config.get("input", []) if each.get("optional")}


def request_of(metadata: dict[str, Any], left_out: set[str]) -> tuple[bytes, int]:
    """An inference request in Triton's binary form, and how long its JSON is. Open dimensions are 1, values are zero.

    Raises `CannotTryError`.
    """
    inputs, total = [], 0
    for each in metadata.get("inputs", []):
        if each["name"] in left_out:
            continue
        shape = [1 if size < 0 else size for size in each["shape"]]
        if len(shape) > _MOST_DIMENSIONS:
            raise CannotTryError(f"input {each['name']} has more than {_MOST_DIMENSIONS} dimensions")
        if each["datatype"] not in _ELEMENT_BYTES:
            raise CannotTryError(f"input {each['name']} is of type {each['datatype']}")
        size = math.prod(shape) * _ELEMENT_BYTES[each["datatype"]]
        total += size
        if total > _MOST_BYTES:
            raise CannotTryError(f"its inputs are larger than {_MOST_BYTES // 2**20} MiB")
        named = {"name": each["name"], "datatype": each["datatype"], "shape": shape}
        inputs.append({**named, "parameters": {"binary_data_size": size}})
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head + bytes(total), len(head)


def _steps(config: dict[str, Any]) -> list[str]:
    return sorted({each["model_name"] for each in (config.get("ensemble_scheduling") or {}).get("step", [])})


def _path(name: str) -> str:
    return f"/v2/models/{quote(name, safe='')}"


async def _told(session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    answer = await asking.get(session, path, _MOST_TOLD)
    if not answer.whole:
        raise CannotTryError(f"Triton answered with more than {_MOST_TOLD // 2**20} MiB to what the model takes")
    told = json.loads(answer.text) if answer.status == 200 else None
    if not isinstance(told, dict):
        raise CannotTryError(f"Triton answered {answer.status} to what the model takes")
    return told


def _words(text: str) -> str:
    """Triton's own sentence; what follows its first line is a traceback."""
    try:
        said = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        said = text
    return said.strip().partition("\n")[0] or "an error without words"
