"""The repository made of each kind of upload, equal to `golden/NAME.txt`: every place and each configuration.

`AIWM_WRITE_GOLDEN=1` writes them anew, for a reader of the difference to judge.
"""

import os
from pathlib import Path

import pytest
from tests.unit.daemon.engines.repository_support import COMPLETE, ENSEMBLE, IO, PYTHON, TORCHSCRIPT, laid_out

GOLDEN = Path(__file__).parent / "golden"

SAVED_MODEL: dict[str, str | bytes] = {
    "saved_model.pb": b"graph",
    "fingerprint.pb": b"print",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"data",
}


def inside(folder: str, files: dict[str, str | bytes]) -> dict[str, str | bytes]:
    return {f"{folder}/{path}": content for path, content in files.items()}


CASES: dict[str, tuple[dict[str, str | bytes], str, bool]] = {
    "onnx": ({"net.onnx": b"onnx"}, "onnx", False),
    "onnx_gpu": ({"mymodel/model.onnx": b"onnx"}, "onnx", True),
    "onnx_with_weights_apart": ({"net.onnx": b"onnx", "net.onnx.data": b"weights"}, "onnx", False),
    "onnx_configured": ({"config.pbtxt": f'name: "mine"\n{IO}', "net.onnx": b"", "labels.txt": "cat\n"}, "onnx", True),
    "pytorch": ({"net.pth": TORCHSCRIPT, "config.pbtxt": f'name: "net"\nbackend: "pytorch"\n{IO}'}, "pytorch", False),
    "tensorflow_saved_model": (SAVED_MODEL, "tensorflow", False),
    "tensorflow_saved_model_gpu": (inside("export/1", SAVED_MODEL), "tensorflow", True),
    "tensorflow_graphdef": ({"frozen.pb": b"graph", "config.pbtxt": f"max_batch_size: 8\n{IO}"}, "tensorflow", False),
    "tensorrt": ({"resnet.engine": b"plan"}, "triton", True),
    "python": ({"model.py": COMPLETE, "weights/w.npz": b"w", "tokens.py": "T = 1\n"}, "custom", False),
    "python_gpu": ({"src/model.py": COMPLETE, "src/net.pt": TORCHSCRIPT}, "pytorch", True),
    "python_configured": ({"m/config.pbtxt": f'backend: "python"\n{IO}', "m/model.py": PYTHON}, "triton", False),
    "layout": ({"config.pbtxt": f'name: "x"\n{IO}', "1/model.py": PYTHON, "2/model.py": PYTHON}, "triton", True),
    "layout_nested": ({"mine/1/model.onnx": b"onnx", "README.md": "read"}, "triton", False),
    "several": (
        {
            "served/config.pbtxt": f'name: "served"\n{IO}',
            "served/1/model.py": PYTHON,
            "part/config.pbtxt": IO,
            "part/model.py": PYTHON,
        },
        "triton",
        False,
    ),
    "ensemble": (
        {
            "repository/first/1/model.onnx": b"onnx",
            "repository/second/config.pbtxt": f'name: "second"\n{IO}',
            "repository/second/1/model.py": PYTHON,
            "repository/whole/config.pbtxt": ENSEMBLE,
        },
        "triton",
        False,
    ),
    "own_backend": ({"config.pbtxt": 'backend: "fil"\n', "model.json": "{}"}, "triton", False),
    "own_file_name": (
        {"config.pbtxt": 'backend: "onnxruntime"\ndefault_model_filename: "b.onnx"\n', "a.onnx": b"", "b.onnx": b""},
        "triton",
        False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_upload_becomes_the_repository_that_triton_reads(name: str, tmp_path: Path) -> None:
    files, framework, gpus = CASES[name]
    text = laid_out(tmp_path, files, framework, gpus=gpus)
    if os.environ.get("AIWM_WRITE_GOLDEN"):
        (GOLDEN / f"{name}.txt").write_text(text)
    assert text == (GOLDEN / f"{name}.txt").read_text()


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)
