"""Small parts of the daemon: addresses, paths, health, logs, ports, settings."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from aiwm.daemon import keeper
from aiwm.daemon.artifacts import safe_path
from aiwm.daemon.enginelog import last_output, read_log
from aiwm.daemon.engines.base import Address
from aiwm.daemon.link import base_url
from aiwm.daemon.main import main
from aiwm.daemon.ports import choose_ports, listen_address
from aiwm.daemon.telemetry import judge_health, source_address
from aiwm.kit.settings import Settings
from aiwm.protocol.errors import Invalid
from aiwm.protocol.node_channel import Metrics
from aiwm.protocol.resources.nodes import GpuDevice
from aiwm.protocol.states import Health


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://a:3003", "http://a:3003"),
        ("wss://a:3003/ws/node", "https://a:3003"),
        ("ws://a/ws/node/", "http://a"),
        ("https://a/aiwm/", "https://a/aiwm"),
    ],
)
def test_a_controller_may_be_named_in_any_form(given: str, url: str) -> None:
    assert base_url(given) == url


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../b", "a//b", "a\\b", "a\0b", "./a", "a/", ""])
def test_a_path_that_leads_out_of_the_model_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="leads out of"):
        safe_path(path)


def test_an_ordinary_path_is_taken() -> None:
    assert str(safe_path("demo/1/model.py")) == "demo/1/model.py"


def test_a_lost_gpu_or_a_full_disk_is_degraded() -> None:
    assert judge_health(Metrics(disk_free=10_000)) is Health.HEALTHY
    assert judge_health(Metrics(disk_free=10)) is Health.DEGRADED
    assert judge_health(Metrics(gpu_devices=[GpuDevice(device_id="0", health="error")])) is Health.DEGRADED


def test_engines_listen_where_the_operator_said() -> None:
    assert listen_address("") == Address()
    assert listen_address("127.0.0.1") == Address(bind="127.0.0.1", local="127.0.0.1")
    assert listen_address("192.0.2.1").local == "127.0.0.1"


def test_chosen_ports_are_free_and_differ() -> None:
    ports = choose_ports(Address())
    assert len({ports.http, ports.grpc, ports.metrics}) == 3
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", ports.http))


def test_the_way_out_is_known_without_sending_anything() -> None:
    assert source_address("http://127.0.0.1:3003") == "127.0.0.1"
    assert source_address("http://no-such-host.invalid") is None


def write_log(folder: Path, *, base: int, start: int = 0, newest: str, older: str = "") -> None:
    (folder / keeper.STATE).write_text(json.dumps({"logBase": base, "logStart": start}))
    (folder / keeper.LOG).write_text(newest)
    if older:
        (folder / f"{keeper.LOG}.1").write_text(older)


def test_a_log_is_read_by_tail_and_goes_on_by_offset_over_a_rotation(tmp_path: Path) -> None:
    write_log(tmp_path, base=104, older="one\n", newest="two\nthree\n")
    last = read_log(tmp_path, tail=2, offset=None)
    assert (last.text, last.next_offset) == ("two\nthree\n", 114)
    assert read_log(tmp_path, tail=0, offset=None).text == ""
    assert read_log(tmp_path, tail=0, offset=102).text == "e\ntwo\nthree\n"
    assert read_log(tmp_path, tail=0, offset=5).text == "one\ntwo\nthree\n"
    assert read_log(tmp_path, tail=0, offset=114).text == ""
    assert read_log(tmp_path, tail=0, offset=999).next_offset == 114


def test_the_last_output_is_the_present_engines_alone(tmp_path: Path) -> None:
    write_log(tmp_path, base=0, start=4, newest="old\nnew\n")
    assert last_output(tmp_path) == "new\n"


def test_no_log_yet_is_an_empty_one(tmp_path: Path) -> None:
    assert read_log(tmp_path, tail=10, offset=None).next_offset == 0
    assert read_log(tmp_path, tail=10, offset=7).text == ""


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "AIWM_CONTROLLER_URL is not set"),
        ({"controller_url": "http://a:1"}, "AIWM_NODE_TOKEN is not set"),
        ({"controller_url": "http://a:1", "node_token": "t", "data_dir": Path("/proc/nowhere")}, "cannot use the data"),
    ],
)
def test_what_is_missing_is_said_in_one_line_and_exit_2(
    changes: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiwm.daemon.main.configure_logging", lambda *_: None)
    assert main(Settings(**changes)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"aiwm node: {line}")
    assert said.count("\n") == 1
