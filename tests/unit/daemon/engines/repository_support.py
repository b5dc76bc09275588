"""Models as people upload them, for the tests of Triton's repositories."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from aiwm.daemon.engines.triton_config import CONFIG
from aiwm.daemon.engines.triton_repository import lay_out

PYTHON = b"class TritonPythonModel:\n    def execute(self, requests): ...\n"
COMPLETE = b"class TritonPythonModel:\n    def auto_complete_config(config): return config\n"
IO = 'input [{ name: "X" data_type: TYPE_FP32 dims: [ 4 ] }]\noutput [{ name: "Y" data_type: TYPE_FP32 dims: [ 2 ] }]\n'
ENSEMBLE = (
    'name: "whole"\nplatform: "ensemble"\n'
    'ensemble_scheduling { step [{ model_name: "first" }, { model_name: "second" }] }\n'
)


def archive(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in names:
            file.writestr(name, "content")
    return out.getvalue()


TORCHSCRIPT = archive("net/data.pkl", "net/code/__torch__.py", "net/constants.pkl", "net/version")
STATE_DICT = archive("archive/data.pkl", "archive/data/0", "archive/version")


def put(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def laid_out(tmp_path: Path, files: Mapping[str, str | bytes], framework: str = "triton", *, gpus: bool = False) -> str:
    """The repository that comes of `files`: each place, and where its link leads or what was written there."""
    artifact, repository = put(tmp_path / "artifact", files), tmp_path / "repository"
    lay_out(artifact, repository, "served", framework, gpus=gpus)
    return shown(artifact, repository)


def shown(artifact: Path, repository: Path) -> str:
    lines = []
    for path in sorted(path for path in repository.rglob("*") if path.is_symlink() or path.is_file()):
        place = path.relative_to(repository)
        if path.is_symlink():
            lines.append(f"{place} -> {path.readlink().relative_to(artifact)}")
        elif path.name == CONFIG:
            lines += [f"{place}:", *(f"    {line}".rstrip() for line in path.read_text().splitlines())]
        else:
            lines.append(f"{place} = {path.read_text()!r}")
    return "\n".join(lines) + "\n"
