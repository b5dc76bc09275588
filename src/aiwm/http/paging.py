"""Lists: `?page&limit&sort&filter[field]=value&q` in, a store query and one page out. A filter can only narrow."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel

from aiwm.infra.store.port import Any, Condition, Query, Scalar, Where
from aiwm.protocol.errors import FieldError, Invalid
from aiwm.protocol.resources.base import Page, Pagination

MAX_LIMIT = 200
_MAX_PAGE = 1_000_000
_MAX_TEXT = 256
_MAX_SORTS = 5
_FILTER = re.compile(r"filter\[([A-Za-z][A-Za-z0-9]*)\]")
_NUMBER = re.compile(r"-?\d{1,15}")

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Listing:
    """What a list request asks for; `page` counts from 1, `filters` are by wire name."""

    page: int = 1
    limit: int = 20
    sort: str | None = None
    filters: dict[str, str] = field(default_factory=dict)
    q: str | None = None

    def without(self, name: str) -> tuple[str | None, "Listing"]:
        """The value of one filter, and the listing without it: for what the record itself does not hold."""
        rest = {each: value for each, value in self.filters.items() if each != name}
        return self.filters.get(name), replace(self, filters=rest)


def listing(request: Request) -> Listing:
    """A dependency: the request's query parameters, all of which must be known here."""
    return parse(request.query_params.multi_items())


class ListingWith:
    """The same dependency for a route that has further query parameters of its own: `ListingWith("unread")`."""

    def __init__(self, *others: str) -> None:
        self._others = frozenset(others)

    def __call__(self, request: Request) -> Listing:
        return parse([item for item in request.query_params.multi_items() if item[0] not in self._others])


def parse(items: Sequence[tuple[str, str]]) -> Listing:
    """A listing from query parameters; `Invalid` naming one that is unknown, given twice or out of range."""
    values: dict[str, str] = {}
    filters: dict[str, str] = {}
    for name, value in items:
        wanted = _FILTER.fullmatch(name)
        if name not in ("page", "limit", "sort", "q") and wanted is None:
            raise _invalid(name, "is not a query parameter of this list")
        key, target = (wanted[1], filters) if wanted else (name, values)
        if key in target:
            raise _invalid(name, "may be given once")
        if len(value) > _MAX_TEXT:
            raise _invalid(name, f"may hold {_MAX_TEXT} characters at most")
        target[key] = value
    return Listing(
        page=_number("page", values.get("page", "1"), _MAX_PAGE),
        limit=_number("limit", values.get("limit", "20"), MAX_LIMIT),
        sort=values.get("sort") or None,
        filters=filters,
        q=values.get("q", "").strip() or None,
    )


def to_query(
    listing: Listing,
    *,
    filterable: Mapping[str, str],
    sortable: Mapping[str, str],
    search: Sequence[str],
    scope: Sequence[Condition],
) -> Query:
    """The store's query for what is not deleted, within `scope`.

    `filterable` and `sortable` map wire names to record fields, `search` are the fields `q` looks in. A filter matches
    the whole text, or the number or truth value the text stands for; on a list field, one of its elements. Without a
    sort the newest come first. `Invalid` names a field that is not listed.
    """
    where: list[Condition] = [*scope, Where("deletedAt", "eq", None)]
    for name, value in listing.filters.items():
        if name not in filterable:
            raise _invalid(f"filter[{name}]", f"cannot be filtered by; possible are {', '.join(sorted(filterable))}")
        where.append(_equals(filterable[name], value))
    if listing.q is not None:
        if not search:
            raise _invalid("q", "cannot be used on this list")
        where.append(Any(tuple(Where(path, "contains", listing.q) for path in search)))
    skip = (listing.page - 1) * listing.limit
    return Query(tuple(where), sort=_sort(listing.sort, sortable), limit=listing.limit, skip=skip)


def page_of(views: Sequence[T], listing: Listing, total: int) -> Page[T]:
    """One page, as answered."""
    return Page(data=list(views), pagination=Pagination(page=listing.page, limit=listing.limit, total=total))


def _equals(path: str, text: str) -> Condition:
    values: list[Scalar] = [text]
    if text in ("true", "false"):
        values.append(text == "true")
    if _NUMBER.fullmatch(text):
        values.append(int(text))
    return Any((*(Where(path, "eq", value) for value in values), Where(path, "has", text)))


def _sort(text: str | None, sortable: Mapping[str, str]) -> tuple[str, ...]:
    if text is None:
        return ("-createdAt",)
    names = text.split(",")
    if len(names) > _MAX_SORTS:
        raise _invalid("sort", f"may name {_MAX_SORTS} fields at most")
    for name in names:
        if name.removeprefix("-") not in sortable:
            raise _invalid("sort", f"cannot be {name}; possible are {', '.join(sorted(sortable))}")
    return tuple(("-" if name.startswith("-") else "") + sortable[name.removeprefix("-")] for name in names)


def _number(name: str, text: str, most: int) -> int:
    number = int(text) if _NUMBER.fullmatch(text) else 0
    if not 1 <= number <= most:
        raise _invalid(name, f"must be a number from 1 to {most}")
    return number


def _invalid(name: str, message: str) -> Invalid:
    return Invalid(
        f"cannot list: {name} {message}", fields=[FieldError(field=name, message=message, code="QUERY_INVALID")]
    )
