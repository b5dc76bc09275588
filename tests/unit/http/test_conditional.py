"""`If-Match`, in the forms clients send it."""

import pytest

from aiwm.http.conditional import check_version, if_match
from aiwm.protocol.errors import Invalid, Stale


@pytest.mark.parametrize(
    ("value", "version"), [(None, None), ("*", None), ('"3"', 3), ("3", 3), (' "12" ', 12), ('W/"7"', 7)]
)
def test_a_version_is_read_with_and_without_quotes(value: str | None, version: int | None) -> None:
    assert if_match(value) == version


@pytest.mark.parametrize("value", ["", '""', "abc", "-1", "1.5", '"1", "2"', "9" * 30, "³"])
def test_anything_else_is_refused_by_name(value: str) -> None:
    with pytest.raises(Invalid) as caught:
        if_match(value)
    assert caught.value.fields[0].field == "If-Match"


def test_only_a_version_that_was_asked_for_and_differs_is_stale() -> None:
    check_version(None, 4)
    check_version(4, 4)
    with pytest.raises(Stale, match="at resourceVersion 4, not 3"):
        check_version(3, 4)
