"""The commands as a whole: each explains itself, and wrong calls are usage errors."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aiwm.cli.main import app

RUNNER = CliRunner()


def paths(command: object, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield prefix
    for name, each in getattr(command, "commands", {}).items():
        yield from paths(each, (*prefix, name))


COMMANDS = list(paths(typer.main.get_command(app)))


@pytest.fixture(autouse=True)
def _nobody_signed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_the_version_is_that_of_the_package() -> None:
    result = RUNNER.invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"aiwm {version('aiwm')}\n")


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = RUNNER.invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["nodes", "ls", "--limit", "201"],
        ["nodes", "get"],
        ["nodes", "create"],
        ["nodes", "create", "a", "-f", "b.yaml"],
        ["nodes", "create", "a", "--label", "novalue"],
        ["nodes", "join-token", "--expires-in", "3601"],
        ["nodes", "join-token", "--label", "novalue"],
        ["nodes", "label", "a"],
        ["nodes", "label", "a", "novalue"],
        ["nodes", "label", "a", "-"],
        ["nodes", "maintenance", "a", "maybe"],
        ["models", "push", "a", "/nowhere/at/all"],
        ["deployments", "ls", "-o", "xml"],
        ["deployments", "apply"],
        ["notifications", "read"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_a_usage_error(words: list[str]) -> None:
    assert RUNNER.invoke(app, words).exit_code == 2


def test_without_a_login_every_command_says_how_to_get_one() -> None:
    result = RUNNER.invoke(app, ["nodes", "ls"])
    assert result.exit_code == 1
    assert result.stderr == "error: cannot go on: nobody is signed in; run: aiwm login (NOT_SIGNED_IN)\n"
