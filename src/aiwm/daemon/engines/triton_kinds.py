"""The kinds of models Triton serves, and which of them a folder of plain files holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from aiwm.daemon.engines.triton_config import CONFIG, setting
from aiwm.daemon.engines.triton_files import Files, unusable

_PYTHON_CLASS = b"TritonPythonModel"
_PYTHON_COMPLETES = b"auto_complete_config"
_LONGEST_PYTHON = 2**20
# A zip's list of its files is at its end. TorchScript's has the model's code; that of a state dict has weights alone.
_ZIP = b"PK\x03\x04"
_CODE_LISTED = re.compile(rb"PK\x01\x02.{42}[^/]{1,255}/code/", re.DOTALL)
_LIST_BYTES = 4 * 2**20
_MOST_NAMES = 5


@dataclass(frozen=True, slots=True)
class _Shape:
    words: str
    file: str
    """What Triton looks for in a version's folder."""
    suffixes: tuple[str, ...]
    head: str
    """The line of a configuration that says which backend reads it."""
    hints: frozenset[str]
    """Frameworks, backends and platforms that mean this kind."""


class Kind(Enum):
    """What a model's main file is."""

    PYTHON = _Shape("a Python model", "model.py", (), 'backend: "python"', frozenset({"python"}))
    ONNX = _Shape(
        "ONNX",
        "model.onnx",
        (".onnx",),
        'backend: "onnxruntime"',
        frozenset({"onnx", "onnxruntime", "onnxruntime_onnx"}),
    )
    TORCHSCRIPT = _Shape(
        "TorchScript", "model.pt", (".pt", ".pth"), 'backend: "pytorch"', frozenset({"pytorch", "pytorch_libtorch"})
    )
    SAVED_MODEL = _Shape(
        "a TensorFlow SavedModel",
        "model.savedmodel",
        (),
        'platform: "tensorflow_savedmodel"',
        frozenset({"tensorflow", "tensorflow_savedmodel"}),
    )
    GRAPH_DEF = _Shape(
        "a TensorFlow GraphDef",
        "model.graphdef",
        (".graphdef", ".pb"),
        'platform: "tensorflow_graphdef"',
        frozenset({"tensorflow", "tensorflow_graphdef"}),
    )
    TENSORRT = _Shape(
        "a TensorRT plan",
        "model.plan",
        (".plan", ".engine"),
        'backend: "tensorrt"',
        frozenset({"tensorrt", "tensorrt_plan"}),
    )


Found = Mapping[Kind, list[PurePosixPath]]


def find(files: Files, folder: PurePosixPath, framework: str, config: str | None) -> tuple[Kind, PurePosixPath] | None:
    """The model among the files in `folder`: what it is, and its main file.

    None when there is none, or when the configuration says by itself which file is read and how. Raises `Invalid`
    when there are several.
    """
    text = config or ""
    if setting(text, "default_model_filename"):
        return None
    named = setting(text, "backend") or setting(text, "platform")
    found = _all(files, folder)
    if named:
        found = {kind: paths for kind, paths in found.items() if named in kind.value.hints}
    kinds = _most_likely(found, framework)
    if not kinds:
        if config is None or named in Kind.TORCHSCRIPT.value.hints:
            _refuse_weights(files, folder)
        return None
    if len(kinds) > 1:
        held = " and ".join(f"{kind.value.words} ({_some(found[kind])})" for kind in kinds)
        raise unusable(f"it holds {held}; upload one of them, or say which with the model's framework")
    (kind,) = kinds
    return kind, _only(kind, found[kind])


def completes_itself(files: Files, kind: Kind, path: PurePosixPath) -> bool:
    """Whether Triton learns the inputs and outputs from the model."""
    if kind is Kind.PYTHON:
        return _PYTHON_COMPLETES in files.start(path, _LONGEST_PYTHON)
    return kind not in (Kind.TORCHSCRIPT, Kind.GRAPH_DEF)


def configuration(kind: Kind, *, gpus: bool) -> str:
    """A configuration for a model that came without one; Triton completes it from the model."""
    device = "KIND_GPU" if gpus else "KIND_CPU"
    return f"{kind.value.head}\nmax_batch_size: 0\ninstance_group [{{ kind: {device} }}]\n"


def _all(files: Files, folder: PurePosixPath) -> dict[Kind, list[PurePosixPath]]:
    found: dict[Kind, list[PurePosixPath]] = {}
    for path in files.below(folder):
        if kind := _kind(files, folder / path):
            found.setdefault(kind, []).append(folder / path)
    return found


def _kind(files: Files, path: PurePosixPath) -> Kind | None:
    if path.name == Kind.PYTHON.value.file:
        return Kind.PYTHON if _PYTHON_CLASS in files.start(path, _LONGEST_PYTHON) else None
    if path.name == "saved_model.pb":
        return Kind.SAVED_MODEL
    for kind in Kind:
        if path.suffix.lower() in kind.value.suffixes:
            return kind if kind is not Kind.TORCHSCRIPT or _is_torchscript(files, path) else None
    return None


def _is_torchscript(files: Files, path: PurePosixPath) -> bool:
    is_zip = files.start(path, len(_ZIP)) == _ZIP
    return is_zip and _CODE_LISTED.search(files.end(path, _LIST_BYTES)) is not None


def _refuse_weights(files: Files, folder: PurePosixPath) -> None:
    """Weights without their code need it from elsewhere: a `.py` file beside them is left to Triton to judge."""
    paths = files.below(folder)
    weights = [path for path in paths if path.suffix.lower() in Kind.TORCHSCRIPT.value.suffixes]
    if weights and not any(path.suffix == ".py" for path in paths):
        raise unusable(
            f"{weights[0]} is no TorchScript but weights without their code, such as a state dict; "
            f'save the model with torch.jit.script(model).save("model.pt"), '
            f"or upload safetensors and choose the engine vllm"
        )


def _most_likely(found: Found, framework: str) -> list[Kind]:
    if Kind.PYTHON in found:
        # Whatever else is there is for its code to read.
        return [Kind.PYTHON]
    meant = [kind for kind in found if framework in kind.value.hints] or list(found)
    # Other formats come with protobuf files of their own.
    return [kind for kind in meant if kind is not Kind.GRAPH_DEF] or meant


def _only(kind: Kind, paths: list[PurePosixPath]) -> PurePosixPath:
    for candidates in (paths, [path for path in paths if path.name == kind.value.file]):
        if len(candidates) == 1:
            return candidates[0]
    raise unusable(
        f"it holds several files that may be the model ({_some(paths)}); "
        f"upload one alone, or upload each as {CONFIG} and 1/{kind.value.file} in a folder of its own"
    )


def _some(paths: list[PurePosixPath]) -> str:
    more = f" and {len(paths) - _MOST_NAMES} more" if len(paths) > _MOST_NAMES else ""
    return ", ".join(map(str, paths[:_MOST_NAMES])) + more
