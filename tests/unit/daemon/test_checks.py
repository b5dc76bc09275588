"""What the doctor finds, one check at a time."""

import os
import resource
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon import checks, reach
from aiwm.daemon.gpu import Reading
from aiwm.protocol.resources.nodes import GpuDevice


def test_a_line_says_how_it_is_what_and_what_to_do() -> None:
    assert checks.Check("fail", "disk", "full", "free some").line() == "fail  disk: full; free some"
    assert checks.Check("ok", "disk", "roomy").line() == "ok    disk: roomy"


def room(monkeypatch: pytest.MonkeyPatch, mib: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=mib * 2**20))


@pytest.mark.parametrize(("free", "verdict"), [(100, "fail"), (5_000, "warn"), (50_000, "ok")])
def test_a_disk_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str) -> None:
    room(monkeypatch, free)
    assert checks.data_folder(tmp_path / "new", installed=False).verdict == verdict


def test_a_data_folder_that_cannot_be_written_or_is_not_the_service_s_is_told(tmp_path: Path) -> None:
    assert checks.data_folder(Path("/proc/nowhere"), installed=False).verdict == "fail"
    (tmp_path / "file").write_text("")
    assert checks.data_folder(tmp_path / "file" / "below", installed=False).verdict == "fail"
    assert "aiwm node install" in checks.data_folder(tmp_path / "away", installed=True).advice
    assert "chown -R" in checks.data_folder(tmp_path, installed=True).advice


def gpu(health: Any) -> GpuDevice:
    return GpuDevice(device_id="0", model="A100", driver_version="550", health=health)


@pytest.mark.parametrize(
    ("reading", "verdict", "text"),
    [
        (Reading(), "ok", "none"),
        (Reading([gpu("ok")]), "ok", "0 A100; driver 550"),
        (Reading([gpu("warning")]), "warn", "look after 0"),
        (Reading([gpu("error")]), "fail", "look after 0"),
        (Reading(broken="cannot see the GPUs: old; install a newer one"), "fail", "install a newer one"),
    ],
)
def test_gpus_are_judged_as_the_daemon_sees_them(reading: Reading, verdict: str, text: str) -> None:
    found = checks.gpus(reading)
    assert found.verdict == verdict
    assert text in found.line()


@pytest.mark.parametrize(("said", "verdict"), [("active", "ok"), ("failed", "fail"), ("", "fail")])
def test_an_installed_service_is_active_or_something_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, verdict: str
) -> None:
    assert checks.service(tmp_path / "none.service").verdict == "ok"
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\necho {said}\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "aiwm-node.service").write_text("")
    found = checks.service(tmp_path / "aiwm-node.service")
    assert found.verdict == verdict
    assert verdict == "ok" or "journalctl" in found.advice


def test_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1_048_576))
    assert "ulimit -n 1048576" in checks.open_files().advice


@pytest.mark.parametrize(
    ("files", "verdict"),
    [
        ({"a/memory.max": "max", "a/b/memory.max": "max", "a/b/pids.max": "100000"}, "ok"),
        ({"a/memory.max": str(512 * 2**20), "a/b/memory.max": "max"}, "warn"),
        ({"a/b/pids.max": "100"}, "warn"),
        ({}, "ok"),
    ],
)
def test_the_lowest_limit_of_a_group_and_its_parents_counts(
    tmp_path: Path, files: dict[str, str], verdict: str
) -> None:
    root, own = tmp_path / "cgroups", tmp_path / "own"
    (root / "a/b").mkdir(parents=True)
    own.write_text("0::/a/b\n")
    for name, text in files.items():
        (root / name).write_text(f"{text}\n")
    assert checks.cgroup(root, own).verdict == verdict
    assert checks.cgroup(root, tmp_path / "none").verdict == "ok"


def test_a_python_that_was_never_tried_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.python().verdict == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert checks.python().verdict == "warn"


@given(st.text())
def test_no_token_is_too_odd_to_be_looked_at(text: str) -> None:
    assert reach.token(text, 0).verdict in ("ok", "warn", "fail")
    assert reach.token(f"a.{text}.b", 0).verdict in ("ok", "warn", "fail")


@given(st.one_of(st.none(), st.text()))
def test_no_date_is_too_odd_to_be_looked_at(date: str | None) -> None:
    assert reach.clock(date, 0).verdict in ("ok", "warn", "fail")
