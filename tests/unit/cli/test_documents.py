"""Resources written down in files."""

from pathlib import Path

import pytest

from aiwm.cli.documents import differences, read_documents
from aiwm.protocol.errors import Malformed


def written(folder: Path, text: str) -> Path:
    file = folder / "file.yaml"
    file.write_text(text)
    return file


def test_a_file_may_hold_several_documents(tmp_path: Path) -> None:
    file = written(tmp_path, "name: a\nreplicas: 2\n---\nname: b\n---\n")
    assert read_documents(file) == [{"name": "a", "replicas": 2}, {"name": "b"}]


@pytest.mark.parametrize("text", ["", "---\n", "- a\n- b\n", "just words", "a: [", "name: a\n---\n- b\n"])
def test_a_file_without_fields_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(Malformed, match=r"file\.yaml"):
        read_documents(written(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Malformed) as refused:
        read_documents(tmp_path / "nowhere.yaml")
    assert refused.value.code == "FILE_UNREADABLE"


def test_only_what_is_not_so_yet_is_changed() -> None:
    current = {"name": "a", "replicas": 1, "resources": {"gpuCount": 1, "ram": None}, "labels": {"a": "1"}}
    wanted = {"name": "a", "replicas": 2, "resources": {"gpuCount": 1}, "labels": {"b": "2"}}
    assert differences(wanted, current) == {"replicas": 2, "labels": {"b": "2"}}


def test_a_field_that_no_resource_has_is_left_to_the_server_to_refuse() -> None:
    assert differences({"replics": 2}, {"replicas": 1}) == {"replics": 2}
