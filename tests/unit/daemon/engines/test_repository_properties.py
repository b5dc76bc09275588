"""Whatever the files: either a repository with the served name in it and no way out of the model, or words why not."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.daemon.engines.repository_support import (
    COMPLETE,
    ENSEMBLE,
    IO,
    PYTHON,
    STATE_DICT,
    TORCHSCRIPT,
    put,
)

from aiwm.daemon.engines.triton_config import CONFIG
from aiwm.daemon.engines.triton_repository import lay_out
from aiwm.protocol.errors import Invalid

FOLDERS = st.lists(
    st.sampled_from(["1", "2", "mine", "served", "model.onnx", "model.savedmodel", "variables", "config.pbtxt"]),
    max_size=3,
)
NAMES = st.sampled_from(
    f"{CONFIG} model.py model.onnx net.onnx net.onnx.data net.pt model.pt saved_model.pb g.pb "
    "net.plan labels.txt 1 model.json w.safetensors .keep".split()
)
CONFIGS = st.sampled_from(
    [
        IO,
        f'name: "other"\n{IO}',
        ENSEMBLE,
        'backend: "python"',
        'backend: "../../x"',
        'backend: "pytorch"',
        'default_model_filename: "../../../escape"',
        'platform: "tensorflow_graphdef"',
        "",
        "{{{",
    ]
).map(str.encode)
CONTENTS = st.sampled_from([PYTHON, COMPLETE, TORCHSCRIPT, STATE_DICT, b"", b"\xff\xfe"])
LINKS = st.sampled_from(["/etc/hostname", "../outside.txt", "model.onnx", "..", "missing"])


@st.composite
def uploads(draw: st.DrawFn) -> dict[str, bytes]:
    """Files of which none has the place of another's folder."""
    files: dict[str, bytes] = {}
    for folders, name in draw(st.lists(st.tuples(FOLDERS, NAMES), max_size=7)):
        path = "/".join([*folders, name])
        clash = any(path.startswith(f"{other}/") or other.startswith(f"{path}/") for other in files)
        if not clash:
            files[path] = draw(CONFIGS if name == CONFIG else CONTENTS)
    return files


FRAMEWORKS = st.sampled_from(["onnx", "pytorch", "tensorflow", "triton", "custom", "safetensors", ""])


@settings(max_examples=300)
@given(uploads(), FRAMEWORKS, st.booleans(), st.one_of(st.none(), st.none(), st.tuples(NAMES, LINKS)))
def test_any_files_give_one_served_model_or_words(
    files: dict[str, bytes], framework: str, gpus: bool, link: tuple[str, str] | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "outside.txt").write_text("private")
        artifact, repository = put(root / "artifact", files), root / "repository"
        artifact.mkdir(exist_ok=True)
        linked = link is not None and not (artifact / link[0]).exists()
        if link is not None and linked:
            (artifact / link[0]).symlink_to(link[1])
        before = contents(artifact)
        refusal = None
        try:
            lay_out(artifact, repository, "served", framework, gpus=gpus)
        except Invalid as error:
            refusal = error
        if refusal is None:
            assert not linked
            check(artifact, repository)
        else:
            assert refusal.code == "COMMAND_INVALID"
            assert str(refusal).startswith("cannot serve the model: ")
            assert not repository.exists()
        assert contents(artifact) == before
        assert {path.name for path in root.iterdir()} <= {"outside.txt", "artifact", "repository"}


def check(artifact: Path, repository: Path) -> None:
    assert (repository / "served").is_dir()
    for model in repository.iterdir():
        versions = [path for path in model.iterdir() if path.is_dir() and path.name.isdigit()]
        assert any(any(version.iterdir()) for version in versions)
        assert (model / CONFIG).is_file() or any(path.name.startswith("model.") for path in model.glob("*/*"))
    for path in repository.rglob("*"):
        if path.is_symlink():
            assert path.readlink().is_relative_to(artifact)
            assert path.resolve().is_relative_to(artifact.resolve())
            assert path.is_file()
        elif not path.is_dir():
            assert path.name in (CONFIG, ".keep")


def contents(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((str(path), path.read_bytes()) for path in folder.rglob("*") if path.is_file())
