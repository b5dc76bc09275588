"""What a model's files may be called, how they are cut into parts, and how its state moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import NOW, later

from aiwm.models import rules
from aiwm.models.records import ModelContent, ModelRecord
from aiwm.protocol.errors import Conflict, Invalid
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.models import ModelFile, UploadFile
from aiwm.protocol.states import DownloadStatus, Framework, ModelSource, TaskType

NEW = ModelContent(id="model-1")


def a_record(source: ModelSource = ModelSource.CUSTOM, created_by: str | None = "user-1") -> ModelRecord:
    return ModelRecord(
        id="model-1",
        owner=Owner(org_id="org-1"),
        created_by=created_by,
        created_at=NOW,
        updated_at=NOW,
        name="digits",
        description="",
        source=source,
        model_version="1",
        framework=Framework.TRITON,
        task_type=TaskType.CV,
        correlation_id="the-one",
    )


def files(*paths: str, size: int = 1) -> list[UploadFile]:
    return [UploadFile(path=path, size=size) for path in paths]


def refused(given_files: list[UploadFile], *, unpack: bool = False) -> str:
    with pytest.raises(Invalid) as caught:
        rules.check_files(given_files, unpack=unpack)
    assert caught.value.message.startswith("cannot ")
    return caught.value.code


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../b",
        "..",
        ".",
        "./a",
        "a/./b",
        "/a",
        "a/",
        "a//b",
        "a\\b",
        "C:/x",
        "a\x00b",
        "a\nb",
        "a\x7f",
        "x" * 256,
    ],
)
def test_a_path_that_could_leave_its_folder_or_hide_is_refused(path: str) -> None:
    assert refused(files(path)) == "FILE_PATH_INVALID"


@pytest.mark.parametrize("path", ["a", "1/model.py", "a b/ü.bin", ".hidden", "...", "x" * 255, "/".join("abcdefghij")])
def test_a_plain_path_is_taken(path: str) -> None:
    rules.check_files(files(path), unpack=False)


@given(st.text(max_size=40).filter(bool))
def test_whatever_is_taken_stays_inside_its_folder(path: str) -> None:
    try:
        rules.check_files([UploadFile(path=path, size=1)], unpack=False)
    except Invalid:
        return
    parts = path.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert not any(ord(each) < 32 or each in "\\:\x7f" for each in path)


@pytest.mark.parametrize(
    ("given_files", "code"),
    [
        (files("a", "a"), "FILE_PATH_DUPLICATE"),
        (files("a", "a/b"), "FILE_PATH_DUPLICATE"),
        (files("a/b/c", "a/b"), "FILE_PATH_DUPLICATE"),
        (files("a", "b", size=0), "UPLOAD_EMPTY"),
        (files("a", "b", "c", size=2**43), "UPLOAD_TOO_LARGE"),
    ],
)
def test_what_cannot_be_a_model_is_refused_by_code(given_files: list[UploadFile], code: str) -> None:
    assert refused(given_files) == code


@pytest.mark.parametrize("path", ["m.tar", "m.tar.gz", "m.tgz", "m.tar.zst", "m.zip"])
def test_an_archive_is_unpacked(path: str) -> None:
    rules.check_files(files(path), unpack=True)


@pytest.mark.parametrize("given_files", [files("m.rar"), files("a.zip", "b.zip"), files("zip")])
def test_only_one_archive_of_a_known_kind_is_unpacked(given_files: list[UploadFile]) -> None:
    assert refused(given_files, unpack=True) == "ARCHIVE_UNSUPPORTED"


@given(st.integers(0, 2**43))
def test_parts_cover_a_file_within_the_part_limit(size: int) -> None:
    part_size = rules.part_size_of([UploadFile(path="a", size=size)])
    count = rules.part_count(size, part_size)
    assert part_size >= rules.PART_SIZE
    assert part_size % rules.PART_SIZE == 0
    assert 1 <= count <= rules.MAX_PARTS
    assert (count - 1) * part_size < max(size, 1) <= count * part_size


a_hash = st.sampled_from(["0" * 64, "a" * 64])
some_files = st.lists(
    st.builds(ModelFile, path=st.sampled_from("abcd"), size=st.integers(0, 9), sha256=a_hash),
    unique_by=lambda f: f.path,
)


@given(some_files, st.randoms())
def test_a_digest_does_not_depend_on_the_order(given_files: list[ModelFile], random: object) -> None:
    shuffled = list(given_files)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert rules.digest(shuffled) == rules.digest(given_files)


@given(some_files, some_files)
def test_different_files_have_different_digests(one: list[ModelFile], other: list[ModelFile]) -> None:
    def contents(given_files: list[ModelFile]) -> set[tuple[str, int, str]]:
        return {(file.path, file.size, file.sha256) for file in given_files}

    assert (rules.digest(one) == rules.digest(other)) is (contents(one) == contents(other))


def test_a_digest_stays_what_it_was() -> None:
    """Caches on nodes are named by it."""
    one = ModelFile(path="1/model.py", size=3, sha256="a" * 64)
    assert rules.digest([one]) == "20d46c6055c9c40a67d38c3c5e51488a14770d9403a516cdde468650654b57fc"


def test_an_upload_moves_a_model_from_pending_over_downloading_to_ready() -> None:
    content = rules.verifying(NEW, "upload-1", 12)
    assert (content.download_status, content.progress.bytes_done, content.progress.bytes_total) == (
        "downloading",
        0,
        12,
    )
    done = [ModelFile(path=path, size=6, sha256="a" * 64) for path in ("b", "a")]
    content = rules.ready(content, done, "models/model-1/upload-1/files")
    assert content.download_status is DownloadStatus.READY
    assert [file.path for file in content.files] == ["a", "b"]
    assert (content.size, content.storage_path) == (12, "models/model-1/upload-1/files")
    assert (content.progress.bytes_done, content.progress.bytes_total, content.progress.files) == (12, 12, 2)


def test_a_failure_keeps_its_reason_and_no_files_and_a_new_try_forgets_it() -> None:
    content = rules.failed(rules.verifying(NEW, "upload-1", 12), "the hash of a differs")
    assert (content.download_status, content.error) == (DownloadStatus.FAILED, "the hash of a differs")
    assert (content.files, content.size, content.storage_path) == ([], 0, "")
    assert rules.verifying(content, "upload-2", 1).error is None


@pytest.mark.parametrize("status", [DownloadStatus.PENDING, DownloadStatus.FAILED])
def test_a_custom_model_without_files_takes_an_upload(status: DownloadStatus) -> None:
    rules.check_uploadable(a_record(), NEW.model_copy(update={"download_status": status}))


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        (ModelSource.HUGGINGFACE, DownloadStatus.PENDING, "MODEL_SOURCE_MISMATCH"),
        (ModelSource.CUSTOM, DownloadStatus.READY, "MODEL_READY"),
        (ModelSource.CUSTOM, DownloadStatus.DOWNLOADING, "MODEL_BUSY"),
    ],
)
def test_any_other_model_takes_none(source: ModelSource, status: DownloadStatus, code: str) -> None:
    with pytest.raises(Conflict) as caught:
        rules.check_uploadable(a_record(source), NEW.model_copy(update={"download_status": status}))
    assert caught.value.code == code


def test_the_end_of_an_upload_is_told_to_who_made_the_model() -> None:
    good = rules.ready(NEW, [ModelFile(path="a", size=1, sha256="a" * 64)], "x")
    assert rules.upload_event(a_record(), good, "now") == {
        "event": "service.event",
        "data": {
            "name": "model.upload.completed",
            "data": {"modelId": "model-1", "modelName": "digits", "status": "ready"},
            "metadata": {"correlationId": "the-one", "orgId": "org-1", "timestamp": "now"},
            "recipients": {"userIds": ["user-1"]},
        },
    }
    bad = rules.upload_event(a_record(created_by=None), rules.failed(NEW, "why"), "now")["data"]
    assert isinstance(bad, dict)
    assert (bad["name"], bad["recipients"]) == ("model.upload.failed", {})
    assert bad["data"] == {"modelId": "model-1", "modelName": "digits", "status": "failed", "error": "why"}


def test_an_upload_s_time_is_over_at_its_end() -> None:
    assert not rules.expired(later(1), NOW)
    assert rules.expired(NOW, NOW)


def test_an_archive_and_its_files_lie_apart() -> None:
    assert rules.upload_root("model-1", "upload-1") == "models/model-1/upload-1/files"
    assert rules.upload_root("model-1", "upload-1", archive=True) == "models/model-1/upload-1/archive"
