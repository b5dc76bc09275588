"""From a job to what is told, and to whom."""

from datetime import UTC, datetime

from aiwm.notifications import rules
from aiwm.notifications.records import StreamRecord
from aiwm.protocol.notifications import Recipients
from aiwm.protocol.states import Severity

NOW = datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC)
SOURCE = {
    "event": "service.event",
    "data": {
        "name": "model.deployment.started",
        "data": {"deploymentId": "deploy-1", "modelName": "whisper", "status": "deploying"},
        "recipients": {"userIds": ["user-1"]},
    },
}


def _read(body: object, name: str = "service.event") -> rules.Told:
    return rules.read("job-1", name, body, now=NOW)


def test_missing_metadata_is_filled_in() -> None:
    told = _read(SOURCE)
    assert told.created_at == NOW
    assert told.correlation_id.startswith("corr-")
    assert told.severity is Severity.NORMAL


def test_metadata_that_is_there_is_kept() -> None:
    metadata = {"correlationId": "corr-9", "timestamp": "2026-01-01T00:00:00"}
    told = _read({**SOURCE, "data": {**_data(), "metadata": metadata, "severity": "critical"}})
    assert told.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert (told.correlation_id, told.severity) == ("corr-9", Severity.CRITICAL)


def test_an_alert_is_of_high_severity_unless_it_says_otherwise() -> None:
    assert _read({"data": _data()}, "service.alert").severity is Severity.HIGH


def test_the_jobs_name_is_the_event_where_the_data_does_not_say() -> None:
    assert _read({"data": _data()}, "agent.event").event == "agent.event"


def test_the_same_job_is_the_same_notification_and_another_is_not() -> None:
    ids = {
        rules.notification_id("1", SOURCE),
        rules.notification_id("1", dict(reversed(SOURCE.items()))),
        rules.notification_id("2", SOURCE),
        rules.notification_id("1", {**SOURCE, "event": "service.alert"}),
    }
    assert len(ids) == 3


def test_everybody_is_addressed_once_with_their_own_ways() -> None:
    ways = rules.addressed(users=["a", "b"], members={"o1": ["b", "c"], "o2": ["c"]}, everyone=["a", "b", "c", "d"])
    assert {user: way.to_wire() for user, way in ways.items()} == {
        "a": {"userIds": ["a"], "broadcast": True},
        "b": {"userIds": ["b"], "orgIds": ["o1"], "broadcast": True},
        "c": {"orgIds": ["o1", "o2"], "broadcast": True},
        "d": {"broadcast": True},
    }


def test_a_delivery_carries_the_data_and_its_place_in_the_stream() -> None:
    stream = StreamRecord(id="user-1", epoch="epoch-1", last_seq=7)
    record = rules.entry(_read(SOURCE), "user-1", Recipients(user_ids=["user-1"]), stream)
    delivery = rules.delivery(record)
    about = delivery.pop("notificationMetadata")
    assert delivery == {**_data(), "severity": "normal"}
    assert about == {
        "notificationId": rules.notification_id("job-1", SOURCE),
        "seq": 7,
        "epoch": "epoch-1",
        "createdAt": "2026-01-02T03:04:05.006Z",
        "correlationId": record.correlation_id,
    }
    assert record.id == f"user-1.{record.notification_id}"


def _data() -> dict[str, object]:
    data = SOURCE["data"]
    assert isinstance(data, dict)
    return data
