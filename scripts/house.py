"""House rules no other tool checks: files stay small, and nothing committed names a machine or a package host."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES = 500
_MACHINE = re.compile(
    r"(?<![\w.])/root(?:/|\b)|(?<![\w.])/home/(?!user\b|aiwm\b)\w"
    r"|py" + r"pi\.org|python" + r"hosted\.org|registry\." + r"npmjs|regi" + r"stry\.yarn"
)
_BINARY = {".npz", ".png", ".ico", ".gz", ".woff2"}
_SELF = "scripts/house.py"


def tracked() -> list[str]:
    """Paths that are committed or would be, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(path for path in listed.stdout.splitlines() if (ROOT / path).is_file())


def too_long(paths: list[str]) -> list[str]:
    """Python files of the product and its tests over the limit."""
    found = []
    for path in paths:
        if path.endswith(".py") and path.startswith(("src/", "tests/", "bench/", "scripts/")):
            lines = (ROOT / path).read_text().count("\n")
            if lines > MOST_LINES:
                found.append(f"{path}: {lines} lines, the limit is {MOST_LINES}; split it by what changes together")
    return found


def machine_names(paths: list[str]) -> list[str]:
    """Lines that only make sense on one machine or behind one package index."""
    found = []
    for path in paths:
        if Path(path).suffix in _BINARY or path == _SELF:
            continue
        for number, line in enumerate((ROOT / path).read_text(errors="replace").splitlines(), 1):
            if match := _MACHINE.search(line):
                found.append(f"{path}:{number}: names a machine or a package host: {match.group()}")
    return found


def main() -> int:
    """0 when every rule holds, else 1 with a line for each breach."""
    paths = tracked()
    breaches = too_long(paths) + machine_names(paths)
    for breach in breaches:
        print(breach)
    print(f"house rules: {len(paths)} files, {len(breaches)} breaches")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
