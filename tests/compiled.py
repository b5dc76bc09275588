"""Shared libraries that tests put before or in place of a machine's own, compiled from C."""

import shutil
import subprocess
from pathlib import Path

import pytest


def shared_library(source: Path, library: Path, *flags: str) -> None:
    """Compiles `source` into `library`; skips where there is no compiler."""
    if (compiler := shutil.which("gcc")) is None:
        pytest.skip("no gcc: apt-get install gcc libc6-dev")
    library.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *flags]
    subprocess.run([*command, "-o", str(library), str(source)], check=True)
