"""The small parts that every wire model is made of: times, names, ids, and what an engine is called."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from aiwm.protocol.base import Id, Name, Params, Timestamp, View, Wire
from aiwm.protocol.resources.deployments import DeploymentCreate, DeploymentPatch, served_name
from aiwm.protocol.resources.models import ModelCreate
from aiwm.protocol.states import ModelSource


class Moment(Wire):
    at: Timestamp
    said_by: str | None = None
    seconds: float = 0.0


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2025-11-13T10:00:00Z", "2025-11-13T10:00:00.000Z"),
        ("2025-11-13T10:00:00.123Z", "2025-11-13T10:00:00.123Z"),
        ("2025-11-13T10:00:00.123999Z", "2025-11-13T10:00:00.123Z"),
        ("2025-11-13T12:00:00+02:00", "2025-11-13T10:00:00.000Z"),
        ("2025-11-13T10:00:00", "2025-11-13T10:00:00.000Z"),
    ],
)
def test_a_time_is_read_in_any_form_and_written_in_one(written: str, read: str) -> None:
    assert Moment.model_validate({"at": written}).to_wire() == {"at": read, "seconds": 0.0}


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)), st.integers(-14, 14))
def test_a_time_survives_the_wire_to_the_millisecond(moment: datetime, zone: int) -> None:
    told = Moment(at=moment.replace(tzinfo=timezone(timedelta(hours=zone))))
    assert told.at.tzinfo is UTC
    assert Moment.model_validate(told.to_wire()) == told


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_say_is_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        Moment.model_validate({"at": "2025-11-13T10:00:00Z", "seconds": value})


def test_a_message_leaves_out_what_it_has_no_value_for_and_a_view_says_null() -> None:
    class Shown(View):
        said_by: str | None = None

    assert "saidBy" not in Moment.model_validate({"at": "2025-11-13T10:00:00Z"}).to_wire()
    assert Shown().to_wire() == {"saidBy": None}


def test_a_message_ignores_what_it_does_not_know_and_params_name_it() -> None:
    class Asked(Params):
        name: str = ""

    assert Moment.model_validate({"at": "2025-11-13T10:00:00Z", "mood": 1}).said_by is None
    with pytest.raises(ValidationError, match="mood"):
        Asked.model_validate({"mood": 1})


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\\b", "a\nb", "\x00", "x" * 129])
def test_a_name_that_could_not_be_shown_or_filed_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)


def test_a_name_loses_the_blanks_around_it() -> None:
    assert TypeAdapter(Name).validate_python("  größer ") == "größer"


@pytest.mark.parametrize("value", ["", "../x", "a/b", "-a", "a b", "x" * 129, "a\n"])
def test_an_id_is_plain(value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Id).validate_python(value)


@pytest.mark.parametrize(
    ("name", "served"),
    [("digits", "digits"), ("my model", "my_model"), ("größe", "gr__e"), (".hidden", "_hidden"), ("a:b?c", "a_b_c")],
)
def test_an_engine_serves_a_deployment_under_a_plain_form_of_its_name(name: str, served: str) -> None:
    assert served_name(name) == served


@given(st.text(min_size=1, max_size=128))
def test_a_served_name_is_safe_in_paths_and_urls_and_stable(name: str) -> None:
    served = served_name(name)
    assert len(served) == len(name)
    assert all(each.isascii() and (each.isalnum() or each in "-_.") for each in served)
    assert not served.startswith(".")
    assert served_name(served) == served


def test_a_model_with_a_repository_comes_from_huggingface() -> None:
    made = ModelCreate.model_validate({"name": "x", "huggingfaceRepo": "openai/whisper-large-v3"})
    assert made.source is ModelSource.HUGGINGFACE
    for wrong in ({"source": "huggingface"}, {"source": "custom", "huggingfaceRepo": "a/b"}):
        with pytest.raises(ValidationError, match="huggingfaceRepo"):
            ModelCreate.model_validate({"name": "x", **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": 101},
        {"replicas": -1},
        {"engine": "torch"},
        {"environmentVariables": {"a-b": "c"}},
        {"image": "--privileged"},
        {"resources": {"gpuCount": 65}},
        {"resources": {"gpus": 1}},
        {"strategy": {"surge": 1}},
        {"engineArgs": ["x"] * 129},
        {"metadata": {"x": "y" * 20_000}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_deployment_that_does_not_fit_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DeploymentCreate.model_validate({"name": "x", "modelId": "model-1", **wrong})


def test_a_patch_counts_only_what_was_sent_and_must_name_something() -> None:
    assert DeploymentPatch.model_validate({"replicas": 3}).changes() == {"replicas": 3}
    with pytest.raises(ValidationError, match="at least one field"):
        DeploymentPatch.model_validate({})
