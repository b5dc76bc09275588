"""Ids sort by birth and never come twice."""

import re
import time

import pytest

from aiwm.kit.ids import new_id


def test_an_id_is_its_prefix_and_a_plain_part() -> None:
    assert re.fullmatch(r"deploy-[0-9a-hjkmnp-tv-z]{26}", new_id("deploy"))


def test_ids_do_not_come_twice() -> None:
    assert len({new_id("x") for _ in range(10_000)}) == 10_000


def test_ids_sort_by_the_millisecond_of_their_birth(monkeypatch: pytest.MonkeyPatch) -> None:
    born = [0, 1, 2, 1_000, 1_767_268_800_000, 1_767_268_800_001, 2**48 - 1]
    ids = []
    for milliseconds in born:
        monkeypatch.setattr(time, "time_ns", lambda at=milliseconds: at * 1_000_000)
        ids.append(new_id("x"))
    assert ids == sorted(ids)
