"""What the platform alone decides cannot be set by anybody: over every create and patch of the schema."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from tests.access_walk import RECIPES, Tenants

from aiwm.testing.world import World, open_world

OURS: dict[str, object] = {
    "owner": {"orgId": "org-1", "userId": "user-1"},
    "ownerId": "user-1",
    "createdBy": "user-1",
    "updatedBy": "user-1",
    "createdAt": "2026-01-01T00:00:00.000Z",
    "updatedAt": "2026-01-01T00:00:00.000Z",
    "deletedAt": None,
    "resourceVersion": 7,
    "version_": 7,
    "status": "online",
    "id": "node-1",
    "uniqueKey": "x",
    "passwordHash": "x",
    "correlationId": "x",
    "__proto__": {},
    "$set": {},
}
WRITES = ("POST", "PATCH", "PUT")


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


def _bodies(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            if method.upper() in WRITES and "application/json" in content:
                yield method.upper(), path, content["application/json"]["schema"]


def _refused(schema: dict[str, Any], body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The object schemas a body may be."""
    for each in body.get("anyOf", [body]):
        if "$ref" in each:
            yield schema["components"]["schemas"][each["$ref"].rpartition("/")[2]]
        elif each.get("type") != "null":
            yield each


async def test_no_body_of_the_schema_takes_a_field_that_is_not_its_own(world: World) -> None:
    schema = await world.call("GET", "/openapi.json", expect=200)
    open_ones = []
    for method, path, body in _bodies(schema):
        for each in _refused(schema, body):
            if each.get("additionalProperties") is not False:
                open_ones.append(f"{method} {path} takes any field")
            settable = {"owner", "createdBy", "resourceVersion", "status", "createdAt"} & set(
                each.get("properties", {})
            )
            if settable:
                open_ones.append(f"{method} {path} takes {sorted(settable)}")
    assert not open_ones


async def test_every_create_and_patch_refuses_by_name_what_the_platform_decides(world: World) -> None:
    tenants = Tenants(world, "", "", "")
    tenants.own, tenants.foreign = await tenants.organization(), await tenants.organization()
    for role in ("universe.owner", "organization.viewer", "organization.owner"):
        tenants.callers[role] = await tenants.caller(role)
    schema = await world.call("GET", "/openapi.json", expect=200)
    wrong = []
    for method, path, _ in _bodies(schema):
        recipe = RECIPES.get((method, path))
        assert recipe is not None, f"say in RECIPES how to ask {method} {path}"
        ask = await recipe(tenants, "own", "universe.owner")
        target = path
        for name, value in ask.values.items():
            target = target.replace("{" + name + "}", value)
        body = dict(ask.body) if isinstance(ask.body, dict) else {}
        taken = {name: value for name, value in OURS.items() if name not in body}
        answer: Any = await world.call(method, target, json={**body, **taken})
        named = {each["field"] for each in answer.get("errors", [])}
        if answer.get("status") != 422 or not set(taken) <= named:
            wrong.append(f"{method} {path}: {answer.get('status')}, took {sorted(set(taken) - named)}")
    assert not wrong
