"""vLLM's metrics page under common names, and what its answers to a tiny request mean."""

from pathlib import Path

import pytest

from aiwm.daemon.engines import vllm_numbers
from aiwm.daemon.engines.base import Verdict
from aiwm.daemon.engines.vllm import judge_trial
from aiwm.protocol.node_channel import EngineNumbers

PAGE = (Path(__file__).parents[4] / "bench/pages/vllm.prom").read_text()


def test_a_recorded_page_of_vllm_is_read_whole() -> None:
    found = vllm_numbers.read(PAGE)
    assert [name for name, value in found if value is None] == []
    assert found.requests == sum(
        int(float(line.split()[-1])) for line in PAGE.splitlines() if line.startswith("vllm:request_success_total{")
    )
    assert found.request_count == found.requests


def test_names_of_older_versions_and_failed_requests_are_known() -> None:
    page = (
        'vllm:gpu_cache_usage_perc{model_name="a"} 0.4217\n'
        'vllm:request_success_total{finished_reason="stop",model_name="a"} 3.0\n'
        'vllm:request_success_total{finished_reason="error",model_name="a"} 2.0\n'
        'vllm:num_requests_running{engine="0"} 1.0\nvllm:num_requests_running{engine="1"} 2.0\n'
    )
    assert vllm_numbers.read(page) == EngineNumbers(requests=5, failures=2, running=3, cache_used=42.2)


def test_a_page_without_its_numbers_says_nothing() -> None:
    assert vllm_numbers.read("# HELP x y\nhttp_requests_total 3\n") == EngineNumbers()


@pytest.mark.parametrize(
    ("status", "text", "verdict", "words"),
    [
        (200, "{}", Verdict.WORKED, ""),
        (500, '{"error": {"message": "EngineCore encountered an issue", "code": 500}}', Verdict.FAILED, "EngineCore"),
        (404, '{"error": {"message": "The model `demo` does not exist."}}', Verdict.FAILED, "does not exist"),
        (404, '{"detail": "Not Found"}', Verdict.UNTRIED, "Not Found"),
        (501, '{"error": {"message": "Not Implemented"}}', Verdict.UNTRIED, "Not Implemented"),
        (400, '{"error": {"message": "The model does not support Completions API"}}', Verdict.UNTRIED, "Completions"),
        (400, '{"error": "too long"}', Verdict.FAILED, "it answered 400: too long"),
        (502, "<html>bad\ngateway</html>", Verdict.FAILED, "<html>bad gateway</html>"),
        (500, "[1]", Verdict.FAILED, "it answered 500"),
    ],
)
def test_an_answer_to_a_tiny_request_is_judged(status: int, text: str, verdict: Verdict, words: str) -> None:
    trial = judge_trial(status, text)
    assert trial.verdict is verdict
    assert words in trial.words
