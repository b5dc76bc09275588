"""What an answer that is no success means."""

import json

import pytest

from aiwm.protocol.errors import AiwmError, Conflict, Invalid, NotFound, TooMany, Unavailable
from aiwm.sdk.failures import error_of

PROBLEM = {
    "type": "about:blank",
    "title": "Invalid request",
    "status": 422,
    "detail": "cannot accept the request: name does not fit",
    "instance": "/api/v1/models",
    "code": "VALIDATION_FAILED",
    "correlationId": "corr-1",
    "errors": [{"field": "name", "message": "too long", "code": "string_too_long"}],
}


def error_from(status: int, body: object) -> AiwmError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return error_of(status, content, "corr-of-the-header", "GET http://x/y")


def test_a_problem_becomes_the_error_that_the_server_raised() -> None:
    error = error_from(422, PROBLEM)
    assert isinstance(error, Invalid)
    assert error.code == "VALIDATION_FAILED"
    assert error.message == PROBLEM["detail"]
    assert error.details == {"correlationId": "corr-1"}
    assert [each.field for each in error.fields] == ["name"]


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (409, Conflict), (429, TooMany), (503, Unavailable)])
def test_each_status_has_its_own_kind(status: int, kind: type[AiwmError]) -> None:
    assert type(error_from(status, {**PROBLEM, "status": status})) is kind


def test_an_error_in_kserves_shape_keeps_its_sentence_and_code() -> None:
    error = error_from(503, {"error": "no replica is ready", "code": "NO_REPLICA"})
    assert isinstance(error, Unavailable)
    assert (error.message, error.code) == ("no replica is ready", "NO_REPLICA")
    assert error.details == {"correlationId": "corr-of-the-header"}


def test_an_error_in_openais_shape_keeps_its_sentence() -> None:
    error = error_from(404, {"error": {"message": "no such model", "code": None, "type": "x"}})
    assert isinstance(error, NotFound)
    assert (error.message, error.code) == ("no such model", "NOT_FOUND")


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"", b"\xff"])
def test_an_answer_of_something_else_names_where_it_came_from(body: bytes) -> None:
    error = error_from(500, body)
    assert type(error) is AiwmError
    assert error.message.startswith("cannot GET http://x/y: it answered 500")
