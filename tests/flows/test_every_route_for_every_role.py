"""Every route for every role, for own, foreign and shared things, against a table that was written by hand."""

import csv
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts
from tests.access_walk import CALLERS, RECIPES, Ask, Tenants
from tests.http_support import served

from aiwm.access.policy import PERMISSIONS
from aiwm.apps.noti import Noti
from aiwm.apps.noti import compose as compose_noti
from aiwm.gateway.upstream import Upstream
from aiwm.http.gate import API, declarations
from aiwm.testing.world import World, open_world

GOLDEN = Path(__file__).resolve().parents[1] / "wire" / "golden" / "access.csv"
NOT_API = {"/openapi.json", "/api-docs", "/docs", "/redoc"}


@dataclass(frozen=True)
class Row:
    service: str
    method: str
    path: str
    record: str
    expected: dict[str, int]


def golden() -> list[Row]:
    lines = [line for line in GOLDEN.read_text().splitlines() if line and not line.startswith("#")]
    return [
        Row(each["service"], each["method"], each["path"], each["record"], {who: int(each[who]) for who in CALLERS})
        for each in csv.DictReader(lines)
    ]


@pytest.fixture
async def tenants(tmp_path: Path) -> AsyncIterator[Tenants]:
    async with open_world(tmp_path) as world:
        noti = _noti(world)
        await noti.prepare()
        async with served(noti.application()) as noti_url:
            here = Tenants(world, noti_url, "", "")
            here.own, here.foreign = await here.organization(), await here.organization()
            here.callers = {role: await here.caller(role) for role in CALLERS}
            yield here
        noti.access.passwords.close()


def _noti(world: World) -> Noti:
    infra = world.infra
    return compose_noti(infra.settings, infra.store, infra.queues, infra.tokens, infra.clock)


def _routes(application: object) -> set[tuple[str, str]]:
    app = application.other_asgi_app  # type: ignore[attr-defined]
    return {
        (method, (context.path or "").replace(":path}", "}"))
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
        if not (context.path or "").startswith(tuple(NOT_API))
    }


async def test_the_table_names_every_route_of_the_schema_and_those_outside_it(tenants: Tenants) -> None:
    rows = golden()
    noti = _noti(tenants.world)
    noti.access.passwords.close()
    for service, application in (
        ("aiwm", tenants.world.controller.application(Upstream(tenants.world.infra.clock))),
        ("noti", noti.application()),
    ):
        url = tenants.world.url if service == "aiwm" else tenants.noti_url
        async with tenants.world.http.get(f"{url}/openapi.json") as answer:
            paths = (await answer.json())["paths"]
        schema = {(method.upper(), path) for path, methods in paths.items() for method in methods}
        served_here = _routes(application) | schema
        listed = {(row.method, row.path) for row in rows if row.service == service}
        assert served_here - listed == set(), f"routes of {service} that access.csv does not name"
        assert listed - served_here == set(), f"routes in access.csv that {service} does not have"


async def test_every_route_names_a_permission_of_the_role_table_and_every_permission_has_a_route(
    tenants: Tenants,
) -> None:
    noti = _noti(tenants.world)
    noti.access.passwords.close()
    named: set[str] = {"metrics.read"}
    for application in (tenants.world.controller.application(Upstream(tenants.world.infra.clock)), noti.application()):
        for route, declared in declarations(application.other_asgi_app).items():
            assert len(declared) == 1 or not route[1].startswith(API), f"{route} declares {sorted(declared)}"
            named |= declared
    assert named - {"public", "signed in"} == set().union(*PERMISSIONS.values())


async def test_a_route_that_asks_for_a_permission_nobody_has_keeps_the_service_from_starting(tenants: Tenants) -> None:
    with pytest.raises(RuntimeError, match=r"nodes\.teleport"):
        tenants.world.controller.guard.needs("nodes.teleport")


def test_the_table_tells_own_from_foreign_wherever_a_path_names_a_thing() -> None:
    by_route: dict[tuple[str, str], set[str]] = {}
    for row in golden():
        by_route.setdefault((row.method, row.path), set()).add(row.record)
    for (method, path), records in by_route.items():
        if "{" in path and "{token}" not in path:
            assert {"own", "foreign"} <= records, f"{method} {path}"


async def test_every_route_answers_every_role_as_the_table_says(tenants: Tenants) -> None:
    wrong = []
    for row in golden():
        recipe = RECIPES.get((row.method, row.path))
        for who, expected in row.expected.items():
            ask = Ask() if recipe is None else await recipe(tenants, row.record, who)
            caller = ask.caller or tenants.callers[who]
            status = await tenants.status(row.service, row.method, row.path, ask, caller)
            if status != expected:
                wrong.append(
                    f"{row.service} {row.method} {row.path} of {row.record} as {who}: {status}, not {expected}"
                )
    assert not wrong, "\n" + "\n".join(wrong)
