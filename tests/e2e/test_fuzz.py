"""Our own schema, fuzzed as owner: whatever fits it or nearly does is answered, and never with a 500.

Paths and references are given ids that exist in most cases, as random ones would only ever be told 404.
"""

import asyncio
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from tests.http_support import served

from aiwm.apps.noti import compose
from aiwm.testing.world import World, open_world

schemathesis = pytest.importorskip(
    "schemathesis", reason="no schemathesis: pip install 'schemathesis>=4.32,<5'", exc_type=ImportError
)

CASES = int(os.environ.get("AIWM_TEST_FUZZ_CASES", "400"))
FULL = 10_000
SHARE_OF_SUCCESSES = 0.3
_A_ROUND = 4
_LEFT_OUT = {("POST", "/api/v1/auth/logout"), ("POST", "/api/v1/auth/login"), ("POST", "/api/v1/auth/refresh")}
_QUERIES = [
    {},
    {"page": "1", "limit": "5"},
    {"limit": "201"},
    {"sort": "-createdAt"},
    {"sort": "version"},
    {"filter[name]": "x"},
    {"filter[name][$ne]": "x"},
    {"filter[owner.orgId]": "x"},
    {"q": "\x00"},
    {"q": "%27 OR 1=1"},
    {"page": "999999999999999999999"},
    {"q": "é\u202e"},
]
_HEADERS = [
    {},
    {"X-Correlation-Id": "x" * 500},
    {"X-Forwarded-For": "1.2.3.4, not an address"},
    {"If-Match": '"1"'},
    {"If-Match": 'W/"\u00ff"'},
    {"Idempotency-Key": "\u00ff"},
    {"Accept": "text/event-stream"},
    {"Origin": "null"},
    {"Content-Encoding": "gzip"},
    {"Range": "bytes=5-1"},
]


@dataclass
class Fuzz:
    """One run: what was answered, and the ids that exist."""

    url: str
    token: str
    keep: str
    answers: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    pool: dict[str, list[str]] = field(default_factory=dict)
    dice: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def count(self) -> int:
        return self.answers.total()

    def send(self, case: Any) -> None:
        self._aim(case)
        headers = {"Authorization": f"Bearer {self.token}", **self._unless_often({}, self.dice.choice(_HEADERS))}
        if case.method == "GET":
            case.query = {**(case.query or {}), **self._unless_often({}, self.dice.choice(_QUERIES))}
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        try:
            answer = case.call(base_url=self.url, headers=encoded, timeout=20, allow_redirects=False)
        except OSError as error:
            self.failures.append(f"{type(error).__name__} {case.as_curl_command()}")
            return
        self.answers[answer.status_code] += 1
        self._remember(answer)
        if answer.status_code == 404 or (case.method == "DELETE" and answer.status_code == 204):
            self._forget(case)
        if answer.status_code >= 500 and answer.status_code != 503:
            self.failures.append(f"{answer.status_code} {case.as_curl_command()} {answer.text[:300]}")
        if "x-correlation-id" not in answer.headers or "x-content-type-options" not in answer.headers:
            self.failures.append(f"no correlation id or security header: {case.as_curl_command()}")

    def _unless_often(self, usual: dict[str, str], odd: dict[str, str]) -> dict[str, str]:
        return odd if self.dice.random() < 0.25 else usual

    def _aim(self, case: Any) -> None:
        """Ids that exist, in most cases; and no secret or name so long that all of it is refused."""
        for name in list(case.path_parameters or {}):
            known = self.pool.get(_wire_name(name))
            if known and self.dice.random() < 0.85:
                case.path_parameters[name] = self.dice.choice(known)
        if isinstance(case.body, dict):
            for name in ("nodeId", "modelId", "orgId"):
                known = self.pool.get(name)
                if name in case.body and known and self.dice.random() < 0.75:
                    case.body[name] = self.dice.choice(known)
            if isinstance(case.body.get("roles"), list) and self.dice.random() < 0.75:
                case.body["roles"] = ["organization.viewer"]

    def _forget(self, case: Any) -> None:
        """What was deleted, or has ended with its organization, is of use once in a while only."""
        for name, value in (case.path_parameters or {}).items():
            known = self.pool.get(_wire_name(name), [])
            if value in known and len(known) > 1:
                known.remove(value)

    def _remember(self, answer: Any) -> None:
        kind = answer.headers.get("content-type", [""])[0]
        if answer.status_code not in (200, 201, 202) or kind.split(";")[0] != "application/json":
            return
        made = answer.json()
        for name in ("nodeId", "modelId", "deploymentId", "userId", "orgId", "apiKeyId", "joinTokenId", "uploadId"):
            found = made.get(name) if isinstance(made, dict) else None
            if isinstance(found, str) and found != self.keep and ("owner" in made or name == "uploadId"):
                self.pool.setdefault(name, []).append(found)
                del self.pool[name][:-20]


def _wire_name(name: str) -> str:
    first, *others = name.split("_")
    return "orgId" if name == "organization_id" else first + "".join(each.capitalize() for each in others)


def _run(fuzz: Fuzz, schema: dict[str, Any], most: int) -> None:
    """Rounds over all operations, until enough was asked."""
    loaded = schemathesis.openapi.from_dict(schema)
    operations = [
        each.ok() for each in loaded.get_all_operations() if (each.ok().method.upper(), each.ok().path) not in _LEFT_OUT
    ]
    modes = schemathesis.GenerationMode
    never_wrong: set[str] = set()
    number = 0
    while fuzz.count < most:
        for operation in operations:
            number += 1
            wrongly = number % 5 == 0 and operation.label not in never_wrong
            if not _ask(fuzz, operation, modes.NEGATIVE if wrongly else modes.POSITIVE, number):
                assert wrongly, f"cannot make a case of {operation.label}"
                never_wrong.add(operation.label)


def _ask(fuzz: Fuzz, operation: Any, mode: Any, number: int) -> bool:
    """Whether there was anything to ask: what takes no parameters cannot be asked wrongly."""

    @seed(number)
    @settings(
        max_examples=_A_ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        fuzz.send(case)

    try:
        each()
    except Unsatisfiable:
        return False
    return True


async def _prepared(world: World) -> Fuzz:
    """An owner of its own, so that nothing that is done to other users signs the fuzzer out."""
    body = {"username": "fuzzer", "password": "a long password", "roles": ["universe.owner"]}
    made = await world.call("POST", "/api/v1/users", json=body, expect=201)
    signed_in = {"username": "fuzzer", "password": "a long password"}
    pair = await world.call("POST", "/api/v1/auth/login", json=signed_in, expect=200)
    fuzz = Fuzz(world.url, str(pair["accessToken"]), str(made["userId"]))
    for index in range(3):
        node = await world.call("POST", "/api/v1/nodes", json={"name": f"n{index}"}, expect=201)
        model = await world.call("POST", "/api/v1/models", json={"name": f"m{index}", "source": "custom"}, expect=201)
        fuzz.pool.setdefault("nodeId", []).append(str(node["nodeId"]))
        fuzz.pool.setdefault("modelId", []).append(str(model["modelId"]))
    return fuzz


async def _fuzzed(folder: Path, most: int) -> Fuzz:
    async with open_world(folder) as world:
        schema = await world.call("GET", "/openapi.json", expect=200)
        fuzz = await _prepared(world)
        await asyncio.to_thread(_run, fuzz, schema, most)
        await world.call("GET", "/health/ready", expect=200)
        await _fuzz_noti(world, fuzz, fuzz.count + most // 10)
    print(f"{fuzz.count} cases: {dict(sorted(fuzz.answers.items()))}")
    return fuzz


async def _fuzz_noti(world: World, fuzz: Fuzz, most: int) -> None:
    """The same for the other service, on the same store and queue."""
    infra = world.infra
    noti = compose(infra.settings, infra.store, infra.queues, infra.tokens, infra.clock)
    await noti.prepare()
    telling = asyncio.create_task(noti.consume(), name="noti queue")
    try:
        async with served(noti.application()) as fuzz.url, world.http.get(f"{fuzz.url}/openapi.json") as answer:
            await asyncio.to_thread(_run, fuzz, await answer.json(), most)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        noti.access.passwords.close()


def _judge(fuzz: Fuzz, least: int) -> None:
    assert not fuzz.failures, "\n".join(sorted(set(fuzz.failures))[:20])
    assert fuzz.count >= least
    successes = sum(count for status, count in fuzz.answers.items() if 200 <= status < 300)
    assert successes >= SHARE_OF_SUCCESSES * fuzz.count, dict(fuzz.answers)


@pytest.mark.filterwarnings("default")
async def test_nothing_that_an_owner_sends_breaks_the_service(tmp_path: Path) -> None:
    _judge(await _fuzzed(tmp_path, CASES), CASES)


@pytest.mark.soak
@pytest.mark.filterwarnings("default")
async def test_ten_thousand_cases_break_nothing(tmp_path: Path) -> None:
    _judge(await _fuzzed(tmp_path, FULL), FULL)
