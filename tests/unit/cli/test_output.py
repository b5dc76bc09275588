"""How answers look."""

from datetime import UTC, datetime, timedelta

import pytest

from aiwm.cli.notifications import event_line, show_event
from aiwm.cli.output import Column, Format, age, show_error, show_fields, show_json, show_rows, size
from aiwm.protocol.errors import FieldError, Invalid
from aiwm.protocol.notifications import Delivery

DELIVERY = Delivery.model_validate(
    {
        "name": "model.deployment.started",
        "data": {"deploymentId": "deploy-1", "modelName": "[bold]x", "status": "deploying"},
        "notificationMetadata": {
            "notificationId": "n",
            "seq": 1,
            "epoch": "e",
            "createdAt": "2026-01-02T03:04:05.006Z",
        },
        "recipients": {"userIds": ["user-1"]},
    }
)


@pytest.mark.parametrize(
    ("count", "base", "text"),
    [(0, "B", "0 B"), (1536, "B", "1.5 KiB"), (24_105, "MiB", "23.5 GiB"), (None, "B", "-"), (512, "MiB", "512 MiB")],
)
def test_sizes_are_shown_in_the_unit_people_read(count: int | None, base: str, text: str) -> None:
    assert size(count, base) == text


@pytest.mark.parametrize(
    ("ago", "text"),
    [(timedelta(seconds=5), "5s"), (timedelta(minutes=3), "3m"), (timedelta(hours=5), "5h"), (timedelta(days=9), "9d")],
)
def test_ages_have_one_unit(ago: timedelta, text: str) -> None:
    assert age(datetime.now(UTC) - ago) == text
    assert age(None) == "never"


def test_a_table_is_never_cut_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(["x" * 500, "y"], [Column("NAME", lambda row: row), Column("ID", lambda row: row[:1])])
    assert capsys.readouterr().out.splitlines() == ["NAME" + " " * 498 + "ID", "x" * 500 + "  x", "y" + " " * 501 + "y"]


def test_a_resource_is_shown_without_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    show_fields({"name": "a", "nothing": None, "none": [], "isRunning": False, "files": [{"a": 1}, {"b": 2}]})
    assert capsys.readouterr().out.splitlines() == [
        "name       a",
        "isRunning  false",
        'files      {"a": 1}',
        '           {"b": 2}',
    ]


def test_json_is_the_answer_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"b": 1, "a": "ü"}, Format.JSON)
    assert capsys.readouterr().out == '{\n  "b": 1,\n  "a": "ü"\n}\n'


def test_an_error_is_one_line_with_its_fields_below(capsys: pytest.CaptureFixture[str]) -> None:
    field = FieldError(field="replicas[0]", message="must be 1", code="x")
    show_error(Invalid("cannot accept it", details={"correlationId": "corr-1"}, fields=[field]))
    assert capsys.readouterr().err == (
        "error: cannot accept it (VALIDATION_FAILED, correlation id corr-1)\n  replicas[0]: must be 1\n"
    )


def test_a_live_event_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_event("service.event", DELIVERY, Format.TABLE)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert line.endswith("model.deployment.started  deploymentId=deploy-1 modelName=[bold]x status=deploying\n")
    assert "05" in event_line("service.event", DELIVERY)


def test_a_live_event_as_json_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_event("service.event", DELIVERY, Format.JSON)
    line = capsys.readouterr().out
    assert line.startswith('{"event": "service.event", "name": "model.deployment.started", "data": {"deploymentId"')
    assert line.count("\n") == 1
