"""What of a folder is uploaded."""

from pathlib import Path

import pytest

from aiwm.protocol.errors import Invalid
from aiwm.sdk.uploads import local_files


def test_a_folder_is_uploaded_with_paths_relative_to_it(tmp_path: Path) -> None:
    for path in ("config.pbtxt", "1/model.py", "1/__pycache__/model.cpython-311.pyc", ".hidden"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert list(local_files(tmp_path)) == [".hidden", "1/model.py", "config.pbtxt"]


def test_a_file_is_uploaded_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "weights.gguf").touch()
    assert local_files(tmp_path / "weights.gguf") == {"weights.gguf": tmp_path / "weights.gguf"}


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refused:
        local_files(tmp_path)
    assert refused.value.code == "UPLOAD_EMPTY"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refused:
        local_files(tmp_path / "nowhere")
    assert refused.value.code == "UPLOAD_SOURCE_MISSING"
