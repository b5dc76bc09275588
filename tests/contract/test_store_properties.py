"""Any sequence of store calls answers as a plain dict would, on every backend."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import servers
from tests.contract.store_kinds import opened, url_of
from tests.contract.store_model import Model

from aiwm.infra.store.port import Any, Condition, Index, Query, Record, Store, Where
from aiwm.protocol.errors import Conflict

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BIG = 2**63 - 1

numbers = st.sampled_from([0, 1, -1, 2, 10, BIG, -BIG - 1, 0.5, 1.0, -2.25])
# The characters keep their order in UTF-8 and UTF-16, and their case folds one to one.
texts = st.text(alphabet="abAB0.%_'\"\\ é世$", max_size=4)
times = st.integers(-5_000, 5_000).map(lambda milliseconds: EPOCH + timedelta(milliseconds=milliseconds))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, times)
keys = st.sampled_from(["a", "$date", "$$", "a.b", "%null", "", "_id"]) | texts
values = st.recursive(
    scalars | st.text(max_size=5) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
ids = st.sampled_from("abcdefg")
records = st.fixed_dictionaries(
    {"id": ids},
    optional={
        "n": st.none() | numbers,
        "s": st.none() | texts,
        "t": st.none() | times,
        "mixed": scalars | st.lists(scalars, max_size=3),
        "o": scalars | st.fixed_dictionaries({}, optional={"n": numbers | st.none()}) | st.just([]),
        "metadata": values,
        "uniqueKey": st.none() | st.sampled_from("xyz"),
    },
)


@st.composite
def wheres(draw: st.DrawFn) -> Where:
    name = draw(st.sampled_from(["n", "s", "t", "mixed", "o", "o.n", "absent", "absent.n"]))
    operator = draw(st.sampled_from(["eq", "ne", "lt", "lte", "gt", "gte", "in", "has", "contains"]))
    if operator == "in":
        return Where(name, "in", tuple(draw(st.lists(scalars, max_size=3))))
    return Where(name, operator, draw(texts if operator == "contains" else scalars))  # type: ignore[arg-type]


conditions: st.SearchStrategy[Condition] = wheres() | st.lists(wheres(), max_size=3).map(lambda some: Any(tuple(some)))
queries = st.builds(
    Query,
    where=st.lists(conditions, max_size=2).map(tuple),
    sort=st.lists(st.sampled_from(["n", "-n", "s", "-s", "t", "-t", "version", "-o.n"]), max_size=2, unique=True).map(
        tuple
    ),
    limit=st.none() | st.integers(0, 5),
    skip=st.integers(0, 3),
)


@dataclass
class Call:
    """One call, its subject, and what it needs besides."""

    name: str
    record: Record = field(default_factory=dict)
    query: Query = field(default_factory=Query)
    behind: int = 0


calls = st.one_of(
    st.builds(Call, st.just("insert"), record=records),
    st.builds(Call, st.just("replace"), record=records, behind=st.sampled_from([0, 0, 0, 1])),
    st.builds(Call, st.just("delete"), record=records),
    st.builds(Call, st.just("delete_range"), query=queries.filter(lambda query: query.where != ())),
    st.builds(Call, st.just("find"), query=queries),
    st.builds(Call, st.just("index"), query=queries.filter(lambda query: query.sort != ())),
)


async def answer(store: Store, name: str, call: Call, version: int) -> object:
    record_id = str(call.record.get("id"))
    try:
        if call.name == "insert":
            await store.insert(name, call.record)
            return True
        if call.name == "replace":
            return await store.replace(name, call.record, version=version)
    except Conflict:
        return None if call.name == "replace" else False
    if call.name == "delete":
        return await store.delete(name, record_id)
    if call.name == "delete_range":
        return await store.delete_range(name, call.query.where)
    if call.name == "index":
        await store.ensure_index(Index(name, tuple(each.removeprefix("-") for each in call.query.sort)))
        return None
    found = await store.find(name, call.query)
    assert await store.count(name, call.query.where) >= len(found)
    return found


def expected(model: Model, call: Call, version: int) -> object:
    record_id = str(call.record.get("id"))
    if call.name == "insert":
        return model.insert(call.record)
    if call.name == "replace":
        return model.replace(call.record, version)
    if call.name == "delete":
        return model.records.pop(record_id, None) is not None
    if call.name == "delete_range":
        return model.delete_range(call.query.where)
    return None if call.name == "index" else model.find(call.query)


async def compare(store: Store, name: str, sequence: list[Call]) -> None:
    model = Model()
    await store.ensure_index(Index(name, ("uniqueKey",), unique=True))
    for call in sequence:
        current = model.records.get(str(call.record.get("id")), {})
        version = int(str(current.get("version", 1))) - call.behind
        assert await answer(store, name, call, version) == expected(model, call, version), call
    for record_id, record in model.records.items():
        assert await store.get(name, record_id) == record
    assert await store.find(name, Query()) == model.find(Query())


def check(url: str, name: str, sequence: list[Call]) -> None:
    async def scenario() -> None:
        async with opened(url) as store:
            await compare(store, name, sequence)

    asyncio.run(scenario())


@settings(max_examples=150, deadline=None)
@given(st.lists(calls, max_size=25))
def test_sqlite_in_memory_answers_as_a_dict_would(sequence: list[Call]) -> None:
    check("sqlite:///:memory:", "things", sequence)


@settings(max_examples=25, deadline=None)
@given(st.lists(calls, max_size=25))
def test_sqlite_in_a_file_answers_as_a_dict_would(sequence: list[Call]) -> None:
    with TemporaryDirectory() as folder:
        check(url_of("file", Path(folder), None), "things", sequence)


@pytest.fixture(scope="module")
def mongodb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.mongodb(tmp_path_factory.mktemp("mongodb")) as url:
        yield url


_names = (f"things{number}" for number in itertools.count())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(calls, max_size=25))
def test_mongodb_answers_as_a_dict_would(mongodb_url: str, sequence: list[Call]) -> None:
    check(mongodb_url, next(_names), sequence)
