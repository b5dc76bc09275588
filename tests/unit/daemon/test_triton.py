"""Triton's particulars that need no Triton."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiwm.daemon.engines.triton import TritonEngine
from aiwm.daemon.engines.triton_config import without_name
from aiwm.daemon.engines.triton_install import open_install
from aiwm.daemon.engines.triton_numpy2 import take_dlpack
from aiwm.daemon.engines.triton_repository import lay_out
from aiwm.protocol.errors import Invalid, Unavailable

CONFIG = 'name: "other" # not ours\ninput [{ name: "X" dims: [1] }]\nplatform: "{0}"\n'


def files(root: Path, *paths: str, config: str = CONFIG) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(config if path.endswith("config.pbtxt") else path)
    return root


def laid_out(tmp_path: Path, *paths: str, config: str = CONFIG) -> set[str]:
    repository = tmp_path / "repository"
    lay_out(files(tmp_path / "artifact", *paths, config=config), repository, "served")
    return {str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "paths",
    [
        ("config.pbtxt", "1/model.py", "1/weights/a.bin"),
        ("mine/config.pbtxt", "mine/1/model.py", "mine/1/weights/a.bin"),
    ],
)
def test_one_model_is_served_under_the_deployments_name_however_it_was_uploaded(
    tmp_path: Path, paths: tuple[str, ...]
) -> None:
    assert laid_out(tmp_path, *paths) == {"served/config.pbtxt", "served/1/model.py", "served/1/weights/a.bin"}


def test_a_model_without_a_configuration_is_one_by_its_version_folder(tmp_path: Path) -> None:
    assert laid_out(tmp_path, "1/model.onnx") == {"served/1/model.onnx"}


def test_of_several_models_the_ensemble_is_served_and_the_others_keep_their_names(tmp_path: Path) -> None:
    artifact = files(tmp_path / "artifact", "part/config.pbtxt", "part/1/model.py")
    files(artifact, "whole/config.pbtxt", "whole/1/keep", config='platform: "ensemble"')
    lay_out(artifact, tmp_path / "repository", "served")
    assert {path.name for path in (tmp_path / "repository").iterdir()} == {"served", "part"}


def test_several_models_of_which_none_is_the_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="it holds several \\(a, b\\)"):
        laid_out(tmp_path, "a/1/model.pt", "b/1/model.pt")


def test_only_the_models_own_name_is_left_out_of_its_configuration() -> None:
    assert without_name('name: "a"\ninput { name: "X" }') == '\ninput { name: "X" }'
    assert without_name("backend: 'x', name : 'a', max_batch_size: 0") == "backend: 'x',  max_batch_size: 0"
    assert without_name('# name: "a"\ninput [{name: "{"}]\nname: "b"\n').endswith('name: "{"}]\n\n')
    assert without_name('backend: "python"') == 'backend: "python"'


LOADING = (
    'I1123 20:24:46.111475 5422 model_lifecycle.cc:472] "loading: bad:1"\n'
    "E1123 20:24:46.170319 5422 model_lifecycle.cc:642] \"failed to load 'bad' version 1: Internal: "
    'ValueError: no weights\\n\\nAt:\\n  model.py(3)\\n"\n'
    "Error: Failed to initialize NVML\n"
    "error: creating server: Invalid argument - load failed for model 'bad'\n"
)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (LOADING, "failed to load 'bad' version 1: Internal: ValueError: no weights"),
        ("error: creating server: Internal - no such thing\n", "creating server: Internal - no such thing"),
        ('E1123 20:24:46.11 5422 http_server.cc:1] "odd"\n', "odd"),
        ("I1123 fine\n", None),
    ],
)
def test_tritons_own_reason_is_found(log: str, words: str | None) -> None:
    assert TritonEngine(Path("/none"), Path("/none")).explain(log) == words


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="check AIWM_TRITON_SERVER"):
        open_install(tmp_path / "tritonserver", tmp_path / "own")


class _Array:
    def __init__(self, kind: str) -> None:
        self.dtype = SimpleNamespace(kind=kind)
        self.shape = (2,)

    def reshape(self, shape: tuple[int, ...]) -> "_Array":
        return self


class _Tensor:
    def __init__(self, name: str = "") -> None:
        self.name = name

    def as_numpy(self) -> str:
        return "by the old way"

    @staticmethod
    def from_dlpack(name: str, array: _Array) -> "_Tensor":
        return _Tensor(f"{name} by dlpack")


def _numpy(version: str) -> Any:
    return SimpleNamespace(
        __version__=version, array=lambda it: it, from_dlpack=lambda it: "by dlpack", ascontiguousarray=lambda it: it
    )


def test_arrays_go_by_dlpack_under_numpy_2_alone() -> None:
    backend: Any = SimpleNamespace(Tensor=type("Tensor", (_Tensor,), {}))
    take_dlpack(backend, _numpy("1.26.4"))
    assert backend.Tensor("a").as_numpy() == "by the old way"
    original = backend.Tensor
    take_dlpack(backend, _numpy("2.4.6"))
    assert original("a").as_numpy() == "by dlpack"
    made = backend.Tensor("Y", _Array("f"))
    assert made.name == "Y by dlpack"
    with pytest.raises(TypeError, match="numpy<2"):
        backend.Tensor("Y", _Array("O"))
    assert isinstance(original("a"), backend.Tensor)
