"""Every message as we send it, frozen: `golden/*.json` name each field once, with a value.

A change of a frame shows here as a difference to its file. Fields may be added, to the file as well; what is in a file
stays, as programs of other versions and other makers read it.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from tests.unit.deployments.builders import NOW

from aiwm.protocol import node_channel as wire
from aiwm.protocol import notifications, states
from aiwm.protocol.base import Wire

GOLDEN = Path(__file__).parent / "golden"
ENVELOPED: dict[str, type[Wire]] = {
    wire.REGISTER_ACK: wire.RegisterAck,
    wire.ERROR: wire.ChannelError,
    wire.NODE_REGISTER: wire.NodeRegister,
    wire.HEARTBEAT: wire.Heartbeat,
    wire.METRICS: wire.Metrics,
    wire.DEPLOYMENT_STATUS: wire.DeploymentStatusReport,
    wire.MODEL_PROGRESS: wire.ModelProgress,
    wire.DEPLOYMENT_LOGS: wire.DeploymentLogs,
    wire.COMMAND_ACK: wire.CommandAck,
    wire.COMMAND_RESULT: wire.CommandResult,
    wire.COMMAND_DEPLOY: wire.DeployCommand,
    wire.COMMAND_STOP: wire.StopCommand,
    wire.COMMAND_HEALTH_CHECK: wire.HealthCheckCommand,
    wire.COMMAND_LOGS: wire.LogsCommand,
    wire.TOKEN_RENEWED: wire.TokenRenewed,
}
BARE: dict[str, type[Wire]] = {
    wire.CONNECTION_ACK: wire.ConnectionAck,
    "result.healthCheck": wire.HealthCheckResult,
    "result.logs": wire.LogsResult,
    "noti.job": notifications.NotificationJob,
    "notifications.delivery": notifications.Delivery,
    "notifications.connected": notifications.Connected,
    "refusal": notifications.Refusal,
}


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def payloads() -> list[tuple[str, type[Wire], Any]]:
    enveloped = [(name, kind, golden(name)["data"]) for name, kind in ENVELOPED.items()]
    return [*enveloped, *((name, kind, golden(name)) for name, kind in BARE.items())]


@pytest.mark.parametrize(
    ("name", "kind", "payload"), payloads(), ids=lambda each: each if isinstance(each, str) else ""
)
def test_a_frozen_message_is_read_and_written_the_same(name: str, kind: type[Wire], payload: Any) -> None:
    assert kind.model_validate(payload).to_wire() == payload


@pytest.mark.parametrize(
    ("name", "kind", "payload"), payloads(), ids=lambda each: each if isinstance(each, str) else ""
)
def test_a_frozen_message_names_every_field(name: str, kind: type[Wire], payload: Any) -> None:
    """At every depth, so that a new field is frozen with the release that brings it."""
    assert _missing(kind.model_validate(payload), name) == []


def _missing(model: Wire, place: str) -> list[str]:
    found: list[str] = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        if value is None:
            found.append(f"{place}.{name}")
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Wire):
                found += _missing(each, f"{place}.{name}")
    return found


@pytest.mark.parametrize("name", ENVELOPED)
def test_an_envelope_is_frozen_with_its_message(name: str) -> None:
    frozen = golden(name)
    about = wire.Metadata.model_validate(frozen["metadata"]) if "metadata" in frozen else None
    made = wire.envelope(name, ENVELOPED[name].model_validate(frozen["data"]), now=NOW, metadata=about)
    assert str(made["messageId"]).startswith("msg-")
    assert {**made, "messageId": frozen["messageId"]} == frozen
    assert list(made) == list(frozen)
    read = wire.Envelope.model_validate(frozen)
    assert (read.type, read.timestamp, read.data) == (name, NOW, frozen["data"])


def test_what_has_no_value_is_not_sent() -> None:
    assert wire.Heartbeat().to_wire() == {"status": "healthy"}
    assert wire.HealthCheckCommand().to_wire() == {}
    assert wire.envelope(wire.HEARTBEAT, wire.Heartbeat(), now=NOW).keys() == {"type", "messageId", "timestamp", "data"}


def test_every_type_on_the_channel_is_frozen() -> None:
    types = {
        value for name, value in vars(wire).items() if name.isupper() and isinstance(value, str) and "/" not in value
    }
    assert types == {*ENVELOPED, wire.CONNECTION_ACK}


def test_every_golden_file_belongs_to_a_message() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == {*ENVELOPED, *BARE, "values", "emitted"}


def test_the_words_for_states_are_frozen() -> None:
    words = {
        name: [each.value for each in kind]
        for name, kind in vars(states).items()
        if isinstance(kind, type) and issubclass(kind, StrEnum) and kind is not StrEnum
    }
    assert words == golden("values")
