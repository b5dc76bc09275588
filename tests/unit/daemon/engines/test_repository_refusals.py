"""What no Triton repository can be made of: refused in words that say what to upload instead."""

import os
import time
from pathlib import Path, PurePosixPath

import pytest
from tests.unit.daemon.engines.repository_support import (
    ENSEMBLE,
    IO,
    PYTHON,
    STATE_DICT,
    TORCHSCRIPT,
    laid_out,
    put,
)

from aiwm.daemon.engines.triton_config import CONFIG, setting
from aiwm.daemon.engines.triton_files import Files
from aiwm.daemon.engines.triton_repository import lay_out, plan
from aiwm.protocol.errors import Invalid

Uploaded = dict[str, str | bytes]


@pytest.mark.parametrize(
    ("files", "framework", "words"),
    [
        ({"README.md": "hello"}, "triton", "no Triton model in it; upload config.pbtxt and 1/model"),
        ({}, "triton", "no Triton model in it"),
        ({"config.pbtxt": IO}, "triton", "there is config.pbtxt and no model; upload both"),
        ({"w.pt": STATE_DICT}, "pytorch", r"w.pt is no TorchScript .* save the model with torch.jit.script"),
        ({"w.pth": b"\x80\x02\x8a"}, "pytorch", "w.pth is no TorchScript .* choose the engine vllm"),
        ({"w.pt": STATE_DICT, CONFIG: f'backend: "pytorch"\n{IO}'}, "pytorch", "w.pt is no TorchScript"),
        ({"net.pt": TORCHSCRIPT}, "pytorch", "net.pt is TorchScript, .* upload config.pbtxt beside it .*INPUT__0"),
        ({"g.pb": b""}, "tensorflow", "g.pb is a TensorFlow GraphDef, .* upload config.pbtxt beside it"),
        ({"model.py": PYTHON}, "custom", "model.py is a Python model, .* or give its class auto_complete_config"),
        ({"net.plan": b""}, "triton", "net.plan is a TensorRT plan, which needs a GPU"),
        ({"model.safetensors": b"", "config.json": "{}"}, "safetensors", "does not read model.safetensors; .* vllm"),
        ({"a.onnx": b"", "b.onnx": b""}, "onnx", r"several files that may be the model \(a.onnx, b.onnx\); upload one"),
        ({f"{n}.onnx": b"" for n in range(9)}, "onnx", r"4.onnx and 4 more\)"),
        ({"a.onnx": b"", "b.plan": b""}, "triton", r"holds ONNX \(a.onnx\) and a TensorRT plan \(b.plan\); upload one"),
        ({"1/saved_model.pb": b"", "2/saved_model.pb": b""}, "tensorflow", "several files that may be the model"),
        (
            {"net.onnx": b"", "model.onnx/data": b""},
            "onnx",
            "net.onnx stands where Triton needs the folder served/1/model.onnx/model.onnx; rename it",
        ),
        (
            {CONFIG: " " * (2**20 + 1), "1/model.py": PYTHON},
            "triton",
            "its configurations have more than 1048576 bytes",
        ),
        ({f"{n}/config.pbtxt": " " * 2**18 for n in "abcde"}, "triton", "with e/config.pbtxt its configurations have"),
        ({"a/1/model.py": "", "b/1/model.py": ""}, "triton", "it holds several .a, b., and none is named served"),
        (
            {"a/config.pbtxt": ENSEMBLE, "b/config.pbtxt": ENSEMBLE, "first/1/model.py": ""},
            "triton",
            "or upload an ensemble of them",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(tmp_path: Path, files: Uploaded, framework: str, words: str) -> None:
    (tmp_path / "artifact").mkdir()
    with pytest.raises(Invalid, match=words) as raised:
        laid_out(tmp_path, files, framework)
    assert raised.value.code == "COMMAND_INVALID"
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("files", "framework", "main"),
    [
        # Triton's own name for it settles which of several it is.
        ({"model.onnx": b"", "model_quantized.onnx": b""}, "onnx", "model.onnx"),
        ({"best.onnx": b"", "best.pt": TORCHSCRIPT}, "onnx", "best.onnx"),
        ({"best.onnx": b"", "best.pt": STATE_DICT}, "triton", "best.onnx"),
        ({"net.onnx": b"", "test_data/input_0.pb": b""}, "custom", "net.onnx"),
        ({"net.onnx": b"", "runs/1/events": b""}, "onnx", "net.onnx"),
    ],
)
def test_the_model_is_found_among_other_files(tmp_path: Path, files: Uploaded, framework: str, main: str) -> None:
    assert f"served/1/model.onnx/model.onnx -> {main}\n" in laid_out(tmp_path, files, framework)


def test_of_nested_ensembles_the_outermost_is_served(tmp_path: Path) -> None:
    inner = ENSEMBLE.replace("second", "third")
    outer = ENSEMBLE.replace("second", "inner")
    models: Uploaded = {f"{name}/1/model.onnx": b"" for name in ("first", "third")}
    text = laid_out(tmp_path, models | {"inner/config.pbtxt": inner, "outer/config.pbtxt": outer})
    assert 'model_name: "inner"' in text.partition("served/config.pbtxt:")[2]


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "1/model.onnx", "nowhere", "/etc"])
@pytest.mark.parametrize("place", ["1/labels.txt", "extra"])
def test_a_symbolic_link_in_a_model_is_refused_wherever_it_leads(tmp_path: Path, place: str, target: str) -> None:
    artifact = put(tmp_path / "artifact", {"1/model.onnx": b"onnx"})
    (artifact / place).symlink_to(target)
    with pytest.raises(Invalid, match=f"{place} is a symbolic link; upload the file itself in its place"):
        lay_out(artifact, tmp_path / "repository", "served")
    assert not (tmp_path / "repository").exists()


def test_a_pipe_in_a_model_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    artifact = put(tmp_path / "artifact", {"1/model.onnx": b"onnx"})
    os.mkfifo(artifact / "model.py")
    with pytest.raises(Invalid, match=r"model.py is neither a file nor a folder"):
        lay_out(artifact, tmp_path / "repository", "served")


def test_a_configuration_made_to_be_read_slowly_is_read_at_once() -> None:
    began = time.process_time()
    assert setting('"' + '\\"' * 30_000, "backend") == ""
    assert time.process_time() - began < 2


def test_folders_in_folders_without_end_are_refused(tmp_path: Path) -> None:
    deep = "/".join(str(number) for number in range(30))
    assert "served/1/model.onnx -> " in laid_out(tmp_path / "a", {f"{deep}/1/model.onnx": b""})
    with pytest.raises(Invalid, match=r"1/model.onnx has more than 32 parts; upload it in fewer folders"):
        laid_out(tmp_path / "b", {f"{deep}/30/1/model.onnx": b""})


WRAPPERS = "/".join(f"folder{number}" for number in range(28))


@pytest.mark.parametrize(
    ("paths", "laid"),
    [
        ([f"{WRAPPERS}/1/model.onnx/{number}" for number in range(10_000)], 10_000),
        ([f"{WRAPPERS}/net.onnx", *(f"{WRAPPERS}/data/{number}" for number in range(9_999))], 10_001),
        (["1/model.onnx", *(f"1/{number}/{WRAPPERS}/data" for number in range(9_999))], 10_000),
        (["served/1/model.onnx", *(f"m{number}/1/model.x/{WRAPPERS}" for number in range(9_999))], 10_000),
    ],
    ids=["wrapped", "wrapped_plainly", "in_a_version", "many_models"],
)
def test_very_many_deep_files_are_planned_at_once(paths: list[str], laid: int) -> None:
    began = time.process_time()
    layout = plan(Files(Path("nowhere"), map(PurePosixPath, paths)), "served", "onnx", gpus=False)
    assert len(layout) == laid
    assert time.process_time() - began < 5


def test_a_model_of_very_many_folders_is_laid_out_at_once(tmp_path: Path) -> None:
    artifact = put(tmp_path / "artifact", {f"{number}/data": b"" for number in range(3000)} | {"a/1/model.onnx": b""})
    began = time.process_time()
    lay_out(artifact, tmp_path / "repository", "served")
    assert time.process_time() - began < 2
