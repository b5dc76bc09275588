"""The service's unit and its settings file, as text."""

import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.envfile import read_environment, write_environment
from aiwm.daemon.unit import Service, unit_text, uses_docker

GOLDEN = Path(__file__).with_name("aiwm-node.service")
SERVICE = Service(
    PurePosixPath("/opt/aiwm/bin/python"), PurePosixPath("/etc/aiwm/node.env"), PurePosixPath("/var/lib/aiwm")
)
MOST_EXPOSURE = 25
PRINTABLE = st.text().filter(str.isprintable)


def test_the_unit_is_the_frozen_one() -> None:
    asked = Service(SERVICE.python, SERVICE.environment, SERVICE.data_dir, docker=True)
    assert unit_text(asked) == GOLDEN.read_text()
    assert unit_text(SERVICE) == GOLDEN.read_text().replace("SupplementaryGroups=docker\n", "")
    assert uses_docker(unit_text(asked))
    assert not uses_docker(unit_text(SERVICE))


@pytest.mark.parametrize("line", ["KillMode=process", "OOMPolicy=continue", "PrivateTmp=no"])
def test_engines_outlive_the_daemon_and_each_other(line: str) -> None:
    assert line in unit_text(SERVICE).splitlines()


def analyzed(tmp_path: Path, *command: str) -> str:
    """What systemd's own tool says of the unit; it must not complain."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze: apt-get install systemd")
    unit = tmp_path / "aiwm-node.service"
    there = Service(PurePosixPath(shutil.which("true") or "/bin/true"), SERVICE.environment, SERVICE.data_dir)
    unit.write_text(unit_text(there))
    done = subprocess.run(["systemd-analyze", *command, str(unit)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    said = analyzed(tmp_path, "verify")
    assert "aiwm-node.service:" not in said


def test_the_unit_is_hardened_as_systemd_measures_it(tmp_path: Path) -> None:
    analyzed(tmp_path, "security", "--no-pager", "--offline=yes", f"--threshold={MOST_EXPOSURE}")


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,20}", fullmatch=True), PRINTABLE, max_size=5))
def test_settings_are_read_as_they_were_written(values: dict[str, str]) -> None:
    assert read_environment(write_environment(values)) == values


def test_lines_that_somebody_added_are_read_too_and_nonsense_is_not() -> None:
    text = '# a comment\n\nAIWM_LOG_LEVEL=DEBUG\n  AIWM_NODE_NAME="a \\"b\\" \\$c"  \nnot an assignment\nX="open\n'
    assert read_environment(text) == {"AIWM_LOG_LEVEL": "DEBUG", "AIWM_NODE_NAME": 'a "b" $c'}


@given(st.text())
def test_no_file_is_too_odd_to_be_read(text: str) -> None:
    read_environment(text)
