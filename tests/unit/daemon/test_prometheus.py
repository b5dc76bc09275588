"""Numbers are read as Prometheus's own library writes them."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from aiwm.daemon.engines import vllm_numbers
from aiwm.daemon.engines.prometheus import samples
from aiwm.daemon.engines.triton_numbers import read_numbers
from aiwm.protocol.node_channel import EngineNumbers

PAGES = Path(__file__).parents[3] / "bench/pages"
NAMES = ("a", "ab", "a:b", "other_total")
VALUES = st.one_of(st.floats(), st.integers(-(2**60), 2**60).map(float))
ENGINES_NAMES = sorted(
    {
        name
        for page in PAGES.glob("*.prom")
        for name in re.findall(r"^((?:vllm:|nv_)\w+)", page.read_text(), re.MULTILINE)
    }
)
ROWS = st.lists(st.tuples(st.sampled_from(NAMES), st.text(), st.text(), VALUES), max_size=12)


def page_of(rows: list[tuple[str, str, str, float]]) -> str:
    families = {
        name: (CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily)(name, "x", labels=("one", "two"))
        for name in NAMES
    }
    for name, one, two, value in rows:
        families[name].add_metric((one, two), value)

    class Given(Collector):
        def collect(self):  # type: ignore[no-untyped-def]
            return families.values()

    registry = CollectorRegistry()
    registry.register(Given())
    return generate_latest(registry).decode()


@given(ROWS, st.sets(st.sampled_from(NAMES)))
def test_samples_of_a_name_are_added_up(rows: list[tuple[str, str, str, float]], names: set[str]) -> None:
    expected: dict[str, float] = {}
    for name, _, _, value in rows:
        if name in names and math.isfinite(value):
            expected[name] = expected.get(name, 0.0) + value
    assert samples(page_of(rows), names) == {name: total for name, total in expected.items() if math.isfinite(total)}


@given(ROWS.filter(bool), st.data())
def test_only_samples_with_the_labels_asked_for_count(
    rows: list[tuple[str, str, str, float]], data: st.DataObject
) -> None:
    name, one, two, _ = data.draw(st.sampled_from(rows))
    expected = [value for each, a, b, value in rows if (each, a, b) == (name, one, two) and math.isfinite(value)]
    found = samples(page_of(rows), [name], {"one": one, "two": two})
    assert found == ({name: sum(expected)} if expected and math.isfinite(sum(expected)) else {})


@given(st.text())
def test_no_page_is_too_broken(page: str) -> None:
    assert samples(page, ["a"]).keys() <= {"a"}
    assert "a" in samples(f'a{{x="1"}} 2\na {page}\na{{{page}\n', ["a"], {"x": "1"})


def test_a_sum_that_is_not_finite_is_left_out() -> None:
    assert samples('a{x="1"} 1e308\na{x="2"} 1e308\nab 1\n', ["a", "ab"]) == {"ab": 1}


WRITTEN = st.one_of(st.floats().map(str), st.sampled_from(["1e308", "-1", "9007199254740993", "1e300"]), st.text())


@given(st.lists(st.tuples(st.sampled_from(ENGINES_NAMES), WRITTEN)))
def test_whatever_a_page_says_is_either_a_number_the_protocol_carries_or_none(lines: list[tuple[str, str]]) -> None:
    page = "".join(f'{name}{{model="m",finished_reason="error"}} {value}\n' for name, value in lines)
    for read in (vllm_numbers.read(page), read_numbers(page, "m")):
        assert all(value is None or 0 <= value <= 2**53 for _, value in read)


@pytest.mark.parametrize(("value", "told"), [("9007199254740992", 2**53), ("1e300", None), ("-1", None), ("3.0", 3)])
def test_a_number_out_of_bounds_leaves_the_others_as_they_are(value: str, told: int | None) -> None:
    page = f"vllm:prompt_tokens_total {value}\nvllm:num_requests_running 1\n"
    assert vllm_numbers.read(page) == EngineNumbers(prompt_tokens=told, running=1)
    page = f'nv_inference_request_success{{model="m"}} {value}\nnv_inference_pending_request_count 1\n'
    assert read_numbers(page, "m") == EngineNumbers(
        requests=told, failures=0, request_count=None, request_seconds=None, queued=1
    )


def test_a_moment_behind_a_value_is_not_the_value() -> None:
    assert samples('a{x="}"} 2 1700000000\na 3 1700000000\nab 7\na NaN\na{x="y"} +Inf\n', ["a"]) == {"a": 5}


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.prom")), ids=lambda path: path.stem)
def test_the_pages_of_real_engines_are_read_as_prometheus_reads_them(page: Path) -> None:
    text, expected = page.read_text(), dict[str, float]()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # Prometheus's own reader appends what Triton's counters lack.
            name = sample.name if f"\n{sample.name}" in text else sample.name.removesuffix("_total")
            expected[name] = expected.get(name, 0.0) + sample.value
    assert "nv_inference_request_success" in expected or "vllm:generation_tokens_total" in expected
    assert samples(text, expected.keys()) == expected
