"""What is made up for a Triton model, for which nothing is, and what is read of its numbers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.engines.base import Trial, Verdict
from aiwm.daemon.engines.triton_numbers import read_numbers
from aiwm.daemon.engines.triton_trial import CannotTryError, check, optional_inputs, request_of, try_model
from aiwm.protocol.node_channel import EngineNumbers

PAGE = (Path(__file__).parents[3] / "bench/pages/triton.prom").read_text()
BYTES = {"BOOL": 1, "INT8": 1, "FP16": 2, "BF16": 2, "INT32": 4, "FP32": 4, "BYTES": 4, "INT64": 8, "FP64": 8}
INPUTS = st.lists(
    st.tuples(st.text(), st.sampled_from(sorted(BYTES)), st.lists(st.integers(-1, 5), max_size=4)),
    max_size=5,
    unique_by=lambda each: each[0],
)


def doubted(words: str) -> Trial:
    return Trial(Verdict.DOUBTED, words)


def unread(error: Exception) -> Trial:
    return Trial(Verdict.UNTRIED, f"what Triton says of the model cannot be read: {error!r}")


@given(INPUTS, st.data())
def test_zeros_are_made_up_for_every_input_that_may_not_be_left_out(
    inputs: list[tuple[str, str, list[int]]], data: st.DataObject
) -> None:
    left_out = set(data.draw(st.lists(st.sampled_from([each[0] for each in inputs] or [""]))))
    metadata = {"inputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in inputs]}
    body, length = request_of(metadata, left_out)
    head, rest = json.loads(body[:length]), body[length:]
    assert rest == bytes(len(rest))
    assert [each["name"] for each in head["inputs"]] == [name for name, _, _ in inputs if name not in left_out]
    for each in head["inputs"]:
        asked = next(shape for name, _, shape in inputs if name == each["name"])
        assert each["shape"] == [abs(size) for size in asked]
        assert each["parameters"]["binary_data_size"] == math.prod(each["shape"]) * BYTES[each["datatype"]]
    assert len(rest) == sum(each["parameters"]["binary_data_size"] for each in head["inputs"])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"sequence_batching": {}}, "takes sequences"),
        ({"model_transaction_policy": {"decoupled": True}}, "as often as it likes"),
        ({"model_warmup": [{"name": "one"}]}, "Triton itself tried"),
        ({"input": [{"name": "S", "is_shape_tensor": True}]}, "takes shapes"),
    ],
)
def test_some_models_cannot_be_tried(config: dict[str, Any], why: str) -> None:
    with pytest.raises(CannotTryError, match=why):
        check({"name": "demo", **config})


def test_an_ordinary_model_can_be_tried() -> None:
    inputs = [{"name": "X", "optional": False}, {"name": "BEAMS", "optional": True}]
    ordinary = {"model_warmup": [], "model_transaction_policy": {"decoupled": False}, "input": inputs}
    check(ordinary)
    assert optional_inputs(ordinary) == {"BEAMS"}


@pytest.mark.parametrize(
    ("kind", "shape", "why"),
    [
        ("FP32", [4096, 4096], "larger than 64 MiB"),
        ("COMPLEX", [1], "of type COMPLEX"),
        ("FP32", [1] * 64, "more than 64 dimensions"),
    ],
)
def test_inputs_too_large_or_of_an_unknown_type_are_not_made_up(kind: str, shape: list[int], why: str) -> None:
    with pytest.raises(CannotTryError, match=why):
        request_of({"inputs": [{"name": "X", "datatype": kind, "shape": [2, *shape]}]}, set())


INPUT = {"name": "X", "datatype": "FP32", "shape": [-1, 3]}


@pytest.mark.parametrize(
    ("config", "metadata", "status", "said", "trial"),
    [
        ({}, {"inputs": [INPUT]}, 200, "{}", Trial(Verdict.WORKED)),
        ({}, {"inputs": [INPUT]}, 500, '{"error": "no such layer\\n\\nAt: model.py"}', doubted("no such layer")),
        ({}, {"inputs": [INPUT]}, 502, "<html>", doubted("<html>")),
        ({}, {"inputs": [INPUT]}, 500, "", doubted("an error without words")),
        ({"sequence_batching": {}}, {}, 500, "", Trial(Verdict.UNTRIED, "None takes sequences of requests")),
        ({}, {"inputs": [{}]}, 500, "", unread(KeyError("name"))),
        ({"input": 7}, {}, 500, "", unread(TypeError("'int' object is not iterable"))),
        ([], {}, 500, "", Trial(Verdict.UNTRIED, "Triton answered 200 to what the model takes")),
    ],
)
async def test_a_trial_says_what_came_of_it(config: Any, metadata: Any, status: int, said: str, trial: Trial) -> None:
    async def infer(request: web.Request) -> web.Response:
        body = await request.read()
        length = int(request.headers["Inference-Header-Content-Length"])
        assert json.loads(body[:length])["inputs"][0]["shape"] == [1, 3]
        assert body[length:] == bytes(12)
        return web.Response(status=status, text=said)

    async def told(request: web.Request) -> web.Response:
        return web.json_response(config if request.path.endswith("config") else metadata)

    app = web.Application()
    app.router.add_get("/v2/models/a b/config", told)
    app.router.add_get("/v2/models/a b", told)
    app.router.add_post("/v2/models/a b/infer", infer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        assert await try_model(f"http://127.0.0.1:{runner.addresses[0][1]}", "a b") == trial
    finally:
        await runner.cleanup()


def test_triton_is_counted_by_the_model_that_is_served_and_its_whole_queue() -> None:
    assert read_numbers(PAGE, "good") == EngineNumbers(
        requests=2, failures=0, queued=2, request_seconds=0.031, request_count=2
    )
    assert read_numbers(PAGE, "bad").failures == 1
    assert read_numbers(PAGE, "ens").requests == 1
    assert read_numbers(PAGE, "not-there") == EngineNumbers(queued=2)
    assert read_numbers("", "good") == EngineNumbers()
