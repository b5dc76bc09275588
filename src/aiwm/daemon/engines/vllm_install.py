"""Finding vLLM on this machine: a command in an environment of its own, whose Python is not the daemon's."""

import shutil
from pathlib import Path


def find_vllm(setting: str) -> Path | None:
    """The command that the setting names, else the one on PATH."""
    if setting:
        return Path(setting)
    found = shutil.which("vllm")
    return None if found is None else Path(found)


def vllm_version(binary: Path) -> str | None:
    """From what its installer left beside it: asking the command itself takes seconds."""
    for folder in (binary.parent.parent, binary.resolve().parent.parent):
        for found in sorted(folder.glob("lib/python3*/site-packages/vllm-*.dist-info")):
            return found.name.removeprefix("vllm-").removesuffix(".dist-info")[:256]
    return None
