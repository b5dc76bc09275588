"""Lists: what a query string may ask for, and what it becomes."""

import pytest

from aiwm.http.paging import Listing, page_of, parse, to_query
from aiwm.infra.store.port import Any, Query, Where
from aiwm.protocol.errors import Invalid
from aiwm.protocol.notifications import UnreadCount

ALIVE = Where("deletedAt", "eq", None)
SCOPE = (Where("owner.orgId", "eq", "org-1"),)


def _query(listing: Listing) -> Query:
    return to_query(
        listing,
        filterable={"name": "name", "ready": "state.ready"},
        sortable={"name": "name", "createdAt": "createdAt"},
        search=("name", "id"),
        scope=SCOPE,
    )


def test_without_parameters_the_newest_twenty_come_first() -> None:
    assert _query(parse([])) == Query((*SCOPE, ALIVE), sort=("-createdAt",), limit=20, skip=0)


def test_pages_skip_what_came_before() -> None:
    query = _query(parse([("page", "3"), ("limit", "200")]))
    assert (query.limit, query.skip) == (200, 400)


def test_filters_and_search_only_narrow_the_scope() -> None:
    query = _query(parse([("filter[name]", "a"), ("filter[ready]", "true"), ("q", " x ")]))
    assert query.where == (
        *SCOPE,
        ALIVE,
        Any((Where("name", "eq", "a"), Where("name", "has", "a"))),
        Any(
            (Where("state.ready", "eq", "true"), Where("state.ready", "eq", True), Where("state.ready", "has", "true"))
        ),
        Any((Where("name", "contains", "x"), Where("id", "contains", "x"))),
    )


def test_a_number_is_matched_as_text_and_as_number() -> None:
    condition = _query(parse([("filter[name]", "42")])).where[-1]
    assert isinstance(condition, Any)
    assert Where("name", "eq", 42) in condition.conditions


def test_several_sorts_apply_in_their_order() -> None:
    assert _query(parse([("sort", "-name,createdAt")])).sort == ("-name", "createdAt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "201"),
        ("limit", "0"),
        ("limit", "ten"),
        ("limit", "1e9"),
        ("page", "0"),
        ("page", "-1"),
        ("page", "99999999999999999999"),
        ("sort", "password"),
        ("sort", "name,"),
        ("sort", "--name"),
        ("colour", "red"),
        ("filter", "x"),
        ("filter[]", "x"),
        ("filter[name][$ne]", "x"),
        ("filter[$where]", "x"),
        ("filter[owner.orgId]", "org-2"),
        ("filter[passwordHash]", "x"),
        ("q", "x" * 257),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(Invalid) as caught:
        _query(parse([(name, value)]))
    assert caught.value.fields[0].field == name


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(Invalid, match="limit may be given once"):
        parse([("limit", "5"), ("limit", "6")])


def test_a_list_without_searchable_fields_refuses_a_search() -> None:
    with pytest.raises(Invalid, match="q cannot be used"):
        to_query(parse([("q", "x")]), filterable={}, sortable={}, search=(), scope=())


def test_a_page_says_which_it_is_of_how_many() -> None:
    page = page_of([UnreadCount(count=1)], Listing(page=2, limit=5), 6)
    assert page.to_wire() == {"data": [{"count": 1}], "pagination": {"page": 2, "limit": 5, "total": 6}}
