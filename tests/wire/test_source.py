"""The source document's own frames, fields and values: each is read by our models, and each has its name in the API.

`source/*.json` are its examples and type definitions, copied as data.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aiwm.protocol import node_channel as wire
from aiwm.protocol.base import Wire
from aiwm.protocol.notifications import NotificationJob
from aiwm.protocol.resources.agents import Agent
from aiwm.testing.world import open_world

SOURCE = Path(__file__).parent / "source"
MODELS: dict[str, type[Wire]] = {
    wire.HEARTBEAT: wire.Heartbeat,
    wire.METRICS: wire.Metrics,
    wire.DEPLOYMENT_STATUS: wire.DeploymentStatusReport,
    wire.COMMAND_DEPLOY: wire.DeployCommand,
    wire.COMMAND_STOP: wire.StopCommand,
    wire.COMMAND_HEALTH_CHECK: wire.HealthCheckCommand,
}
JSON_TYPES = {"string": "string", "string[]": "array", "number": ("number", "integer"), "boolean": "boolean"}


def source(name: str) -> Any:
    return json.loads((SOURCE / f"{name}.json").read_text())


FRAMES = source("frames")
FIELDS = [(kind, field, type_) for kind, fields in source("resources").items() for field, type_ in fields.items()]
VALUES = [(place, value) for place, values in source("values").items() for value in values]


@pytest.mark.parametrize("frame", FRAMES["from_node"], ids=lambda frame: frame["type"])
def test_every_frame_of_a_node_is_read_with_all_it_says(frame: dict[str, Any]) -> None:
    read = MODELS[frame["type"]].model_validate(frame["data"]).to_wire()
    assert _without_milliseconds(read) == frame["data"]


def _without_milliseconds(value: Any) -> Any:
    """Times as the source writes them."""
    if isinstance(value, dict):
        return {name: _without_milliseconds(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_milliseconds(each) for each in value]
    return value.replace(".000Z", "Z") if isinstance(value, str) else value


@pytest.mark.parametrize("frame", FRAMES["to_node"], ids=lambda frame: frame["type"])
def test_every_field_of_a_command_has_its_name_and_type_in_ours(frame: dict[str, Any]) -> None:
    schema = MODELS[frame["type"]].model_json_schema(by_alias=True, mode="serialization")["properties"]
    assert frame["data"].keys() <= schema.keys()
    assert {schema[name].get("type") for name in frame["data"]} <= {"string"}


@pytest.mark.parametrize("frame", FRAMES["to_node"][1:], ids=lambda frame: frame["type"])
def test_a_bare_command_is_read(frame: dict[str, Any]) -> None:
    assert MODELS[frame["type"]].model_validate(frame["data"]).to_wire() == frame["data"]


def test_the_notification_example_is_read_and_written_the_same() -> None:
    example = source("notification")
    assert NotificationJob.model_validate(example["data"]).to_wire() == example["data"]


def test_every_event_kind_is_known() -> None:
    kinds = NotificationJob.model_json_schema()["properties"]["event"]["enum"]
    assert sorted(kinds) == sorted(source("events"))


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The schemas of the generated OpenAPI; Agent, which has no routes yet, from its model."""
    described = asyncio.run(_described(tmp_path_factory.mktemp("world")))
    agent = Agent.model_json_schema(by_alias=True, mode="serialization", ref_template="#/components/schemas/{model}")
    return {**described["components"]["schemas"], **agent.pop("$defs"), "Agent": agent}


async def _described(folder: Path) -> Any:
    async with open_world(folder) as world:
        return await world.call("GET", "/openapi.json", expect=200)


def resolved(schemas: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives a schema allows, references followed, null left out."""
    if "$ref" in schema:
        return resolved(schemas, schemas[schema["$ref"].rsplit("/", 1)[1]])
    if "anyOf" in schema:
        return [one for each in schema["anyOf"] for one in resolved(schemas, each)]
    return [] if schema.get("type") == "null" else [schema]


def property_of(schemas: dict[str, Any], kind: str, field: str) -> dict[str, Any]:
    (found,) = resolved(schemas, schemas[kind]["properties"][field])
    return found


@pytest.mark.parametrize(("kind", "field", "type_"), FIELDS, ids=lambda each: each if isinstance(each, str) else "list")
def test_every_field_has_its_name_and_type(openapi: dict[str, Any], kind: str, field: str, type_: Any) -> None:
    found = property_of(openapi, kind, field)
    if isinstance(type_, list):
        (item,) = resolved(openapi, found["items"])
        assert type_[0].keys() <= item["properties"].keys()
    elif type_ == "Date":
        assert (found["type"], found["format"]) == ("string", "date-time")
    else:
        assert found["type"] in JSON_TYPES[type_]


@pytest.mark.parametrize(("place", "value"), VALUES, ids=lambda each: each)
def test_every_value_is_allowed(openapi: dict[str, Any], place: str, value: str) -> None:
    kind, *path = place.split(".")
    found = property_of(openapi, kind, path[0])
    for name in path[1:]:
        (item,) = resolved(openapi, found["items"])
        (found,) = resolved(openapi, item["properties"][name])
    if found["type"] == "array":
        (found,) = resolved(openapi, found["items"])
    assert value in found["enum"]
