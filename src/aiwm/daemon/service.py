"""Where the daemon's service lies on a machine, and the means to change that: shared by install and uninstall."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiwm.daemon.unit import SERVICE

UNIT = Path("/etc/systemd/system") / f"{SERVICE}.service"
ENVIRONMENT = Path("/etc/aiwm/node.env")
DATA_DIR = Path("/var/lib/aiwm")

Run = Callable[..., int]


class Refused(Exception):
    """It cannot be done; the message is one line that says why and what to do."""


def run_command(*command: str) -> int:
    """Runs a command, whose errors the caller's user sees; its exit code."""
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to install: without `run` files are laid out below `root` for an image, and nothing is run."""

    root: Path = Path("/")
    run: Run | None = None

    def at(self, path: Path) -> Path:
        """`path` of the machine, below its root."""
        return self.root / path.relative_to("/")

    def ask(self, *command: str) -> bool:
        """Whether a command succeeds."""
        return self.run is not None and self.run(*command) == 0

    def must(self, *command: str) -> None:
        """Raises `Refused` when a command fails."""
        if not self.ask(*command):
            raise Refused(f"`{' '.join(command)}` failed; see what it said above, then try again")


def read_text(path: Path) -> str:
    """What is in `path`; nothing where it is not. Raises `Refused`."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except PermissionError as error:
        raise Refused(f"cannot read {path}: this needs root; run it with sudo") from error
