"""What the store port promises, held against every backend."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from tests import servers
from tests.contract.store_kinds import KINDS, opened, url_of

from aiwm.infra.store.port import Any, Index, Query, Record, Store, Where
from aiwm.protocol.errors import Conflict, Invalid, TooLarge, Unavailable

MOMENT = datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC)
_names = (f"things{number}" for number in itertools.count())


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str | None]]:
    """The kind of store, and the server's URL where there is one."""
    if request.param != "mongodb":
        yield request.param, None
        return
    with servers.mongodb(tmp_path_factory.mktemp("mongodb")) as url:
        yield request.param, url


@pytest.fixture
async def store(kind: tuple[str, str | None], tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(url_of(kind[0], tmp_path, kind[1])) as found:
        yield found


@pytest.fixture
def name() -> str:
    return next(_names)


async def ids(store: Store, name: str, *where: Where | Any, **query: object) -> list[str]:
    found = await store.find(name, Query(where, **query))  # type: ignore[arg-type]
    return [str(record["id"]) for record in found]


async def fill(store: Store, name: str, *records: Record) -> None:
    for record in records:
        await store.insert(name, record)


async def test_a_new_record_has_version_one_and_comes_back_as_it_was(store: Store, name: str) -> None:
    record: Record = {
        "id": "a",
        "text": "héllo 世界 🚀 \u2028 \x00 '\"\\",
        "whole": -(2**63),
        "large": 2**63 - 1,
        "float": 0.1,
        "round": 1.0,
        "yes": True,
        "nothing": None,
        "at": MOMENT,
        "list": [1, "two", None, MOMENT, [True], {"deep": None}],
        "empty": {"list": [], "dict": {}, "text": ""},
    }
    await store.insert(name, record)
    found = await store.get(name, "a")
    assert found == {**record, "version": 1}
    assert found is not None
    assert type(found["round"]) is float
    assert type(found["large"]) is int
    assert found["yes"] is True


@pytest.mark.parametrize(
    "key", ["a.b", "$set", "$date", "$$date", "%null", "%2E", "", " ", "_id", "$", "k8s.io/x", "a\x00b", "ключ"]
)
async def test_a_key_that_a_backend_reserves_comes_back(store: Store, name: str, key: str) -> None:
    metadata = {key: 1, "in": {key: [{key: None}]}, "time": {key: MOMENT}}
    record: Record = {"id": "a", "metadata": metadata, "_id": "own", "$top.level": {key: None}}
    await store.insert(name, record)
    assert await store.get(name, "a") == {**record, "version": 1}


async def test_what_looks_like_an_encoded_time_stays_what_it_is(store: Store, name: str) -> None:
    record: Record = {"id": "a", "one": {"$date": 5}, "two": '{"$date":5}', "three": {"$$date": {"$date": "x"}}}
    await fill(store, name, record)
    assert await store.get(name, "a") == {**record, "version": 1}
    assert await ids(store, name, Where("one", "eq", datetime.fromtimestamp(0.005, UTC))) == []
    assert await ids(store, name, Where("one", "eq", '{"$date":5}')) == []


async def test_times_are_kept_in_utc_with_whole_milliseconds(store: Store, name: str) -> None:
    local = datetime(2026, 1, 1, 12, 0, 0, 123_987, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    early = datetime(1890, 1, 1, 0, 0, 0, 1_999, tzinfo=UTC)
    await fill(store, name, {"id": "a", "at": local, "early": early})
    found = await store.get(name, "a")
    assert found is not None
    assert found["at"] == datetime(2026, 1, 1, 6, 30, 0, 123_000, tzinfo=UTC)
    assert found["early"] == early.replace(microsecond=1_000)
    assert isinstance(found["at"], datetime)
    assert found["at"].utcoffset() == timedelta(0)


async def test_a_record_is_not_altered_through_what_was_given_or_handed_out(store: Store, name: str) -> None:
    record: Record = {"id": "a", "list": [1], "dict": {"x": [1]}}
    await store.insert(name, record)
    record["list"].append(2)  # type: ignore[attr-defined]
    for found in (await store.get(name, "a"), (await store.find(name, Query()))[0]):
        assert found == {"id": "a", "version": 1, "list": [1], "dict": {"x": [1]}}
        found["dict"]["x"].append(3)  # type: ignore[index]
    assert await store.get(name, "a") == {"id": "a", "version": 1, "list": [1], "dict": {"x": [1]}}


async def test_inserting_does_not_alter_the_record_given(store: Store, name: str) -> None:
    record: Record = {"id": "a", "x": None, "version": 7}
    await store.insert(name, record)
    assert record == {"id": "a", "x": None, "version": 7}
    assert await store.get(name, "a") == {"id": "a", "x": None, "version": 1}


async def test_an_id_that_exists_is_refused(store: Store, name: str) -> None:
    await fill(store, name, {"id": "a", "x": 1})
    with pytest.raises(Conflict) as caught:
        await store.insert(name, {"id": "a", "x": 2})
    assert caught.value.code == "DUPLICATE"
    assert await store.get(name, "a") == {"id": "a", "version": 1, "x": 1}


async def test_a_record_that_is_not_there_is_none(store: Store, name: str) -> None:
    assert await store.get(name, "a") is None
    assert await store.find(name, Query()) == []
    assert await store.count(name) == 0
    assert await store.delete(name, "a") is False
    assert await store.replace(name, {"id": "a"}, version=1) is False


async def test_collections_are_apart(store: Store, name: str) -> None:
    other = next(_names)
    await fill(store, name, {"id": "a", "x": 1})
    await fill(store, other, {"id": "a", "x": 2})
    assert await store.delete(name, "a")
    assert await store.get(other, "a") == {"id": "a", "version": 1, "x": 2}


async def test_replacing_writes_the_whole_record_and_counts(store: Store, name: str) -> None:
    await fill(store, name, {"id": "a", "x": 1, "gone": True})
    assert await store.replace(name, {"id": "a", "x": 2, "version": 99}, version=1)
    assert await store.get(name, "a") == {"id": "a", "version": 2, "x": 2}


async def test_a_record_that_changed_meanwhile_is_not_replaced(store: Store, name: str) -> None:
    await fill(store, name, {"id": "a", "x": 1})
    assert await store.replace(name, {"id": "a", "x": 2}, version=1)
    assert not await store.replace(name, {"id": "a", "x": 3}, version=1)
    assert await store.get(name, "a") == {"id": "a", "version": 2, "x": 2}


async def test_no_update_is_lost_between_many_writers(store: Store, name: str) -> None:
    await fill(store, name, {"id": "a", "count": 0})

    async def increment() -> None:
        while True:
            found = await store.get(name, "a")
            assert found is not None
            version, count = found["version"], found["count"]
            assert isinstance(version, int)
            assert isinstance(count, int)
            if await store.replace(name, {"id": "a", "count": count + 1}, version=version):
                return

    await asyncio.gather(*(increment() for _ in range(30)))
    assert await store.get(name, "a") == {"id": "a", "version": 31, "count": 30}


async def test_of_many_equal_inserts_one_wins_and_the_others_are_told(store: Store, name: str) -> None:
    results = await asyncio.gather(
        *(store.insert(name, {"id": "a", "by": number}) for number in range(20)),
        *(store.insert(name, {"id": f"other{number}"}) for number in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Conflict) for result in results) == 19
    assert await store.count(name) == 21


async def test_a_unique_index_refuses_a_second_holder(store: Store, name: str) -> None:
    await store.ensure_index(Index(name, ("uniqueKey",), unique=True))
    await store.ensure_index(Index(name, ("uniqueKey",), unique=True))
    await fill(store, name, {"id": "a", "uniqueKey": "k"}, {"id": "b", "uniqueKey": "l"})
    with pytest.raises(Conflict) as inserted:
        await store.insert(name, {"id": "c", "uniqueKey": "k"})
    with pytest.raises(Conflict) as replaced:
        await store.replace(name, {"id": "b", "uniqueKey": "k"}, version=1)
    assert inserted.value.code == replaced.value.code == "DUPLICATE"
    assert await store.get(name, "b") == {"id": "b", "version": 1, "uniqueKey": "l"}


async def test_a_unique_index_ignores_missing_and_null(store: Store, name: str) -> None:
    await store.ensure_index(Index(name, ("uniqueKey",), unique=True))
    await fill(store, name, {"id": "a"}, {"id": "b"}, {"id": "c", "uniqueKey": None}, {"id": "d", "uniqueKey": None})
    await fill(store, name, {"id": "e", "uniqueKey": "k"})
    assert await store.replace(name, {"id": "e"}, version=1)
    await fill(store, name, {"id": "f", "uniqueKey": "k"})
    assert await store.count(name) == 6


async def test_an_index_changes_no_answer(store: Store, name: str) -> None:
    records: list[Record] = [{"id": str(n), "o": {"at": MOMENT + timedelta(seconds=n % 3)}, "s": n} for n in range(9)]
    await fill(store, name, *records, {"id": "none"})
    before = await ids(store, name, Where("o.at", "gt", MOMENT), sort=("-o.at", "s"))
    await store.ensure_index(Index(name, ("o.at", "s"), name="by_time"))
    assert await ids(store, name, Where("o.at", "gt", MOMENT), sort=("-o.at", "s")) == before
    assert before == ["2", "5", "8", "1", "4", "7"]
    assert await store.count(name, (Where("o.at", "ne", None),)) == 9


async def test_a_unique_index_over_several_fields_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="uniqueKey"):
        await store.ensure_index(Index(name, ("a", "b"), unique=True))


async def test_a_missing_field_equals_null(store: Store, name: str) -> None:
    await fill(
        store, name, {"id": "missing"}, {"id": "null", "x": None}, {"id": "set", "x": 0}, {"id": "list", "x": []}
    )
    assert await ids(store, name, Where("x", "eq", None)) == ["missing", "null"]
    assert await ids(store, name, Where("x", "ne", None)) == ["list", "set"]
    assert await ids(store, name, Where("x", "ne", 0)) == ["list", "missing", "null"]
    assert await ids(store, name, Where("x", "in", (None, 5))) == ["missing", "null"]
    assert await ids(store, name, Where("x.y", "eq", None)) == ["list", "missing", "null", "set"]


async def test_values_of_different_types_are_never_equal(store: Store, name: str) -> None:
    values: dict[str, object] = {
        "one": 1,
        "float": 1.0,
        "true": True,
        "text": "1",
        "time": datetime.fromtimestamp(0.001, UTC),
        "list": [1],
    }
    await fill(store, name, *({"id": key, "x": value} for key, value in values.items()))
    assert await ids(store, name, Where("x", "eq", 1)) == ["float", "one"]
    assert await ids(store, name, Where("x", "eq", True)) == ["true"]
    assert await ids(store, name, Where("x", "eq", "1")) == ["text"]
    assert await ids(store, name, Where("x", "in", (datetime.fromtimestamp(0.001, UTC), True))) == ["time", "true"]
    assert await ids(store, name, Where("x", "ne", 1)) == ["list", "text", "time", "true"]
    assert await ids(store, name, Where("x", "gte", 0)) == ["float", "one"]
    assert await ids(store, name, Where("x", "lt", "2")) == ["text"]
    assert await ids(store, name, Where("x", "gt", datetime.fromtimestamp(0, UTC))) == ["time"]


async def test_order_against_null_and_membership_in_nothing_match_nothing(store: Store, name: str) -> None:
    await fill(store, name, {"id": "a", "x": 1}, {"id": "b"})
    for where in (Where("x", "gte", None), Where("x", "lte", None), Where("x", "in", ()), Any(())):
        assert await ids(store, name, where) == []


async def test_conditions_join_with_and_and_alternatives_with_or(store: Store, name: str) -> None:
    await fill(store, name, *({"id": f"{n}", "n": n, "even": n % 2 == 0} for n in range(8)))
    either = Any((Where("n", "lt", 2), Where("n", "gte", 6)))
    assert await ids(store, name, either, Where("even", "eq", True)) == ["0", "6"]
    assert await store.count(name, (either,)) == 4


async def test_membership_takes_more_values_than_a_statement_has_places(store: Store, name: str) -> None:
    await fill(store, name, {"id": "a", "x": "v39999"}, {"id": "b", "x": "w"})
    assert await ids(store, name, Where("x", "in", tuple(f"v{number}" for number in range(40_000)))) == ["a"]
    assert await ids(store, name, Where("id", "in", ("b", "c"))) == ["b"]


async def test_contains_finds_text_whatever_its_case_and_takes_no_pattern(store: Store, name: str) -> None:
    await fill(
        store, name, {"id": "a", "x": "Llama-3.1 (8B) 100%_x"}, {"id": "b", "x": "ÄÖÜ straße"}, {"id": "c", "x": 3}
    )
    for text in ("llama-3.1", "(8b)", "100%_X", "3.1 (", ""):
        assert "a" in await ids(store, name, Where("x", "contains", text)), text
    for text in ("3?1", "l.ama", "1000", "%", "_", ".*", "^L"):
        expected = ["a"] if text in "Llama-3.1 (8B) 100%_x" else []
        assert await ids(store, name, Where("x", "contains", text)) == expected, text
    assert await ids(store, name, Where("x", "contains", "Straße")) == ["b"]
    assert await ids(store, name, Where("x", "contains", "äö")) == ["b"]


async def test_has_is_membership_in_a_list(store: Store, name: str) -> None:
    await fill(
        store,
        name,
        {"id": "list", "x": ["a", 1, True, None, MOMENT], "o": {"tags": ["t"]}},
        {"id": "text", "x": "a"},
        {"id": "dict", "x": {"k": "a"}},
        {"id": "none"},
    )
    for value in ("a", 1, True, None, MOMENT):
        assert await ids(store, name, Where("x", "has", value)) == ["list"], value
    assert await ids(store, name, Where("x", "has", "b")) == []
    assert await ids(store, name, Where("o.tags", "has", "t")) == ["list"]
    assert await ids(store, name, Where("x", "eq", "a")) == ["text"]


async def test_records_come_sorted_with_null_first_and_ties_by_id(store: Store, name: str) -> None:
    await fill(
        store,
        name,
        {"id": "d", "n": 2, "at": MOMENT},
        {"id": "c", "n": 10},
        {"id": "b", "n": 2, "at": MOMENT - timedelta(days=900)},
        {"id": "a"},
    )
    assert await ids(store, name, sort=("n",)) == ["a", "b", "d", "c"]
    assert await ids(store, name, sort=("-n",)) == ["c", "b", "d", "a"]
    assert await ids(store, name, sort=("-n", "-id")) == ["c", "d", "b", "a"]
    assert await ids(store, name, sort=("-at",)) == ["d", "b", "a", "c"]
    assert await ids(store, name) == ["a", "b", "c", "d"]


async def test_pages_neither_repeat_nor_miss_a_record(store: Store, name: str) -> None:
    await fill(store, name, *({"id": f"{n:02}", "group": n % 3} for n in range(25)))
    whole = await ids(store, name, sort=("group",))
    paged = [each for skip in range(0, 30, 4) for each in await ids(store, name, sort=("group",), limit=4, skip=skip)]
    assert paged == whole
    assert len(set(paged)) == 25
    assert await ids(store, name, limit=0) == []


async def test_id_and_version_are_fields_to_query_by(store: Store, name: str) -> None:
    await fill(store, name, {"id": "a"}, {"id": "b"})
    assert await store.replace(name, {"id": "b"}, version=1)
    assert await ids(store, name, Where("version", "gt", 1)) == ["b"]
    assert await ids(store, name, Where("id", "ne", "b")) == ["a"]
    assert await ids(store, name, sort=("-version",)) == ["b", "a"]


async def test_a_deleted_record_is_gone_and_its_id_free(store: Store, name: str) -> None:
    await fill(store, name, {"id": "a"})
    assert await store.delete(name, "a") is True
    assert await store.delete(name, "a") is False
    await store.insert(name, {"id": "a"})


async def test_a_range_is_deleted_by_condition_only(store: Store, name: str) -> None:
    await fill(store, name, *({"id": f"{n}", "n": n} for n in range(6)))
    assert await store.delete_range(name, (Where("n", "lt", 4), Where("n", "ne", 1))) == 3
    assert await ids(store, name) == ["1", "4", "5"]
    with pytest.raises(ValueError, match="condition"):
        await store.delete_range(name, ())


@pytest.mark.parametrize(
    "value",
    [2**63, -(2**63) - 1, float("nan"), float("inf"), "\ud800", {"\ud800": 1}],
    ids=lambda value: ascii(value)[:12],
)
async def test_what_no_backend_can_keep_is_refused(store: Store, name: str, value: object) -> None:
    with pytest.raises(Invalid, match="cannot"):
        await store.insert(name, {"id": "a", "x": {"deep": [value]}})
    assert await store.count(name) == 0


async def test_a_record_nested_too_deep_or_too_big_is_refused(store: Store, name: str) -> None:
    deep: dict[str, object] = {}
    for _ in range(100):
        deep = {"x": deep}
    with pytest.raises(Invalid, match="deeper"):
        await store.insert(name, {"id": "a", **deep})
    with pytest.raises(TooLarge, match="bytes"):
        await store.insert(name, {"id": "a", "x": "x" * 17_000_000})


@pytest.mark.parametrize("value", [object(), b"bytes", {1: 2}, {1, 2}], ids=repr)
async def test_what_is_not_json_is_a_bug(store: Store, name: str, value: object) -> None:
    with pytest.raises(TypeError):
        await store.insert(name, {"id": "a", "x": value})


async def test_a_time_without_a_zone_and_a_record_without_an_id_are_bugs(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="zone"):
        await store.insert(name, {"id": "a", "x": datetime(2026, 1, 1)})
    with pytest.raises(ValueError, match="id"):
        await store.insert(name, {"x": 1})


@pytest.mark.parametrize("field", ["a b", 'x"; DROP TABLE t; --', "$where", "a..b", "", ".", "a'"])
async def test_a_field_that_is_not_a_path_is_refused(store: Store, name: str, field: str) -> None:
    for query in (Query((Where(field, "eq", 1),)), Query(sort=(f"-{field}",))):
        with pytest.raises(Invalid, match="cannot query"):
            await store.find(name, query)


async def test_text_that_is_no_unicode_finds_nothing_and_says_so(store: Store, name: str) -> None:
    await fill(store, name, {"id": "a", "x": "y"})
    with pytest.raises(Invalid, match="Unicode"):
        await store.find(name, Query((Where("x", "eq", "\ud800"),)))
    with pytest.raises(Invalid, match="Unicode"):
        await store.get(name, "\ud800")
    with pytest.raises(Invalid, match="NUL"):
        await store.find(name, Query((Where("x", "contains", "a\0"),)))


async def test_a_closed_store_is_unavailable(tmp_path: Path, store: Store, name: str) -> None:
    await store.ping()
    await fill(store, name, {"id": "a"})
    await store.close()
    await store.close()
    for call in (store.insert(name, {"id": "b"}), store.get(name, "a"), store.find(name, Query()), store.ping()):
        with pytest.raises(Unavailable, match="closed"):
            await call


async def test_a_caller_that_gives_up_stops_no_other_write(store: Store, name: str) -> None:
    writes = [asyncio.ensure_future(store.insert(name, {"id": f"{n:02}"})) for n in range(20)]
    await asyncio.sleep(0)
    writes[3].cancel()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(result is None for result in results) == 19
    assert await store.count(name) >= 19
