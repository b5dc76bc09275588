"""Plain files as a Triton model: `NAME.onnx`, TorchScript, a SavedModel, a plan or `model.py`, as people have them."""

from pathlib import PurePosixPath

from aiwm.daemon.engines.triton_config import CONFIG, without_name
from aiwm.daemon.engines.triton_files import Files, unusable
from aiwm.daemon.engines.triton_kinds import Kind, completes_itself, configuration, find

Layout = dict[PurePosixPath, PurePosixPath | str]
"""What is put where: a link to one of the model's files, or text."""

VERSION = PurePosixPath("1")

_EXAMPLE = (
    'input [{ name: "INPUT__0" data_type: TYPE_FP32 dims: [ -1, 3, 224, 224 ] }] '
    'output [{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ -1, 1000 ] }]'
)
_WHOLE_FOLDERS = (Kind.PYTHON, Kind.ONNX, Kind.SAVED_MODEL)


def lay_out_plain(files: Files, folder: PurePosixPath, framework: str, *, gpus: bool) -> Layout:
    """The model that lies plainly in `folder`, as Triton wants it. Raises `Invalid`."""
    config = files.text(folder / CONFIG) if folder / CONFIG in files else None
    found = find(files, folder, framework, config)
    if config is not None:
        own = _arrange(files, folder, *found) if found else _unchanged(files, folder)
        # Labels and environments are looked for beside the configuration.
        top = [path for path in files.below(folder) if len(path.parts) == 1]
        beside: Layout = {path: folder / path for path in top if not found or folder / path != found[1]}
        layout = beside | own | {PurePosixPath(CONFIG): without_name(config)}
    elif found:
        _check_complete(files, *found)
        layout = _arrange(files, folder, *found) | {PurePosixPath(CONFIG): configuration(found[0], gpus=gpus)}
    else:
        raise _nothing(files, folder)
    if found and found[0] is Kind.TENSORRT and not gpus:
        raise unusable(f"{found[1]} is a TensorRT plan, which needs a GPU; give the deployment one, or upload ONNX")
    return layout


def _arrange(files: Files, folder: PurePosixPath, kind: Kind, main: PurePosixPath) -> Layout:
    target = VERSION / kind.value.file
    others = [path for path in files.below(main.parent) if main.parent / path not in (main, folder / CONFIG)]
    if kind not in _WHOLE_FOLDERS or (kind is Kind.ONNX and not others):
        return {target: main}
    home = VERSION if kind is Kind.PYTHON else target
    # A SavedModel is a folder by nature, ONNX becomes one when its weights are in files of their own.
    name = main.name if kind is Kind.SAVED_MODEL else kind.value.file
    layout: Layout = {home / path: main.parent / path for path in others}
    return layout | {home / name: main}


def _unchanged(files: Files, folder: PurePosixPath) -> Layout:
    own: Layout = {VERSION / path: folder / path for path in files.below(folder) if path != PurePosixPath(CONFIG)}
    if not own:
        raise unusable(f"there is {CONFIG} and no model; upload both, {CONFIG} and 1/model.…")
    return own


def _check_complete(files: Files, kind: Kind, main: PurePosixPath) -> None:
    if completes_itself(files, kind, main):
        return
    other = ", or give its class auto_complete_config" if kind is Kind.PYTHON else ""
    raise unusable(
        f"{main} is {kind.value.words}, which does not tell Triton its inputs and outputs; "
        f"upload {CONFIG} beside it that does, such as: {_EXAMPLE}{other}"
    )


def _nothing(files: Files, folder: PurePosixPath) -> Exception:
    for path in files.below(folder):
        if path.suffix.lower() in (".safetensors", ".gguf"):
            return unusable(f"Triton does not read {path}; choose the engine vllm, or upload the model as ONNX")
    return unusable(
        f"there is no Triton model in it; upload {CONFIG} and 1/model.… , a folder NAME with both, or one of: "
        f"NAME.onnx, NAME.pt (TorchScript) with {CONFIG}, a SavedModel's folder, NAME.plan (TensorRT), "
        f"model.py with a class TritonPythonModel"
    )
