"""`aiwm COMMAND`: each command finds its own entry and loads nothing the others need."""

import subprocess
import sys

import pytest


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("command", ["up", "controller", "noti", "worker", "node", "demo", "login", "nodes"])
def test_every_command_has_help(command: str) -> None:
    done = run(f"import sys; from aiwm.__main__ import main; sys.exit(main(['{command}', '--help']))")
    assert done.returncode == 0, done.stderr
    assert command in done.stdout


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        # Where redis is installed, python-socketio loads it by itself; the extra `node` does not bring it.
        ("aiwm.daemon.main", ("typer", "rich", "fastapi", "pymongo", "bullmq", "obstore")),
        ("aiwm.apps.up.main", ("typer", "rich", "fastapi", "pymongo", "redis", "bullmq", "obstore", "aiohttp")),
        ("aiwm.cli.main", ("fastapi", "pymongo", "redis", "bullmq", "obstore")),
    ],
)
def test_a_light_entry_stays_light(module: str, heavy: tuple[str, ...]) -> None:
    done = run(f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_command_that_does_not_exist_is_a_usage_error() -> None:
    assert run("import sys; from aiwm.__main__ import main; sys.exit(main(['fly']))").returncode == 2


def test_a_separate_process_refuses_to_start_without_its_store() -> None:
    code = "import os, sys; [os.environ.pop(n) for n in list(os.environ) if n.startswith('AIWM_')]; "
    done = run(code + "from aiwm.__main__ import main; sys.exit(main(['controller']))")
    assert done.returncode == 2
    assert "AIWM_STORE_URL is not set" in done.stderr.splitlines()[-1]
