"""Our own errors in the shape of the API that a caller speaks."""

import json

import pytest

from aiwm.gateway.routes import RETRY_AFTER_SECONDS, shaped_error
from aiwm.protocol.errors import AiwmError, NotFound, TooLarge, Unauthenticated, Unavailable


def answered(error: AiwmError, path: str) -> tuple[int, dict[str, str], object]:
    answer = shaped_error(error, path)
    assert answer is not None
    return answer.status_code, dict(answer.headers), json.loads(bytes(answer.body))


def test_kserve_clients_get_a_sentence_under_error() -> None:
    status, _, body = answered(NotFound("cannot find it", code="MODEL_NOT_FOUND"), "v2/models/x/infer")
    assert (status, body) == (404, {"error": "cannot find it", "code": "MODEL_NOT_FOUND"})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotFound("cannot find it", code="GONE"), "invalid_request_error"),
        (TooLarge("cannot find it", code="GONE"), "invalid_request_error"),
        (Unavailable("cannot find it", code="GONE"), "server_error"),
    ],
)
def test_openai_clients_get_an_error_object(error: AiwmError, kind: str) -> None:
    status, _, body = answered(error, "v1/chat/completions")
    assert status == error.status
    assert body == {"error": {"message": "cannot find it", "type": kind, "code": "GONE", "param": None}}


@pytest.mark.parametrize("path", ["metrics", "", "V2/models", "health"])
def test_on_any_other_path_the_error_is_a_problem_as_everywhere(path: str) -> None:
    assert shaped_error(NotFound("cannot find it"), path) is None


@pytest.mark.parametrize("path", ["v1/completions", "v2/models/x/infer"])
def test_who_finds_no_replica_is_told_when_to_come_back_and_who_is_not_signed_in_how(path: str) -> None:
    assert answered(Unavailable("cannot serve it"), path)[1]["retry-after"] == str(RETRY_AFTER_SECONDS)
    assert "retry-after" not in answered(NotFound("cannot find it"), path)[1]
    assert answered(Unauthenticated("cannot tell who you are"), path)[1]["www-authenticate"] == "Bearer"
