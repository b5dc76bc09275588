"""Archives from strangers: what is taken, what is refused under which code, and that nothing is left behind."""

import contextlib
import gzip
import importlib.util
import io
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.models.archives import unpack
from aiwm.protocol.errors import Invalid

MANY = 10**9
Entry = tuple[str, bytes]


def make_tar(entries: list[Entry], *, kind: bytes = tarfile.REGTYPE, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "target"
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def make_zip(entries: list[Entry], *, mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in entries:
            entry = zipfile.ZipInfo(name)
            # The class repairs names as it is made; a stranger's tool does not.
            entry.filename = entry.orig_filename = name
            entry.external_attr, entry.compress_type = mode << 16, method
            archive.writestr(entry, content)
    return out.getvalue()


MAKERS: dict[str, Callable[[list[Entry]], bytes]] = {
    "a.tar": make_tar,
    "a.tar.gz": lambda entries: gzip.compress(make_tar(entries)),
    "a.zip": make_zip,
}


def attempt(tmp: Path, name: str, content: bytes, **limits: int) -> tuple[list[Path], Path]:
    archive, into = tmp / name, tmp / "into"
    archive.write_bytes(content)
    return unpack(archive, into, **({"max_bytes": MANY} | limits)), into


def refusal(tmp: Path, name: str, content: bytes, **limits: int) -> str:
    with pytest.raises(Invalid) as caught:
        attempt(tmp, name, content, **limits)
    assert list((tmp / "into").iterdir()) == []
    assert sorted(path.name for path in tmp.iterdir()) == sorted([name, "into"])
    assert caught.value.message.startswith("cannot unpack ")
    return caught.value.code


@pytest.mark.parametrize("name", MAKERS)
def test_files_come_out_whole_and_in_order(tmp_path: Path, name: str) -> None:
    entries = [("b/model.bin", bytes(range(256)) * 5000), ("a.txt", b"hello"), ("empty", b""), ("ü/x", b"1")]
    files, into = attempt(tmp_path, name, MAKERS[name](entries))
    assert [(path.as_posix(), (into / path).read_bytes()) for path in files] == entries


def test_many_small_files_and_folders_of_a_real_tar_command(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(300):
        (source / str(number % 7)).mkdir(parents=True, exist_ok=True)
        (source / str(number % 7) / f"{number}.txt").write_bytes(bytes([number % 256]) * number * 11)
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        tar.add(source, arcname=".")
    files = unpack(tmp_path / "a.tgz", tmp_path / "into", max_bytes=MANY)
    assert len(files) == 300
    assert all((tmp_path / "into" / path).read_bytes() == (source / path).read_bytes() for path in files)


HOSTILE = [
    "../x",
    "a/../../x",
    "/etc/x",
    "a/..",
    "..",
    "a//b",
    "a\\b",
    "..\\x",
    "a\x01b",
    "a\nb",
    "a\x7f",
    "n" * 256,
    "/".join(["deep"] * 300),
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", MAKERS)
def test_a_path_that_leads_outside_or_misleads_is_refused(tmp_path: Path, name: str, hostile: str) -> None:
    entries = [("good", b"1"), (hostile, b"2")]
    assert refusal(tmp_path, name, MAKERS[name](entries)) == "ARCHIVE_UNSAFE_PATH"


@pytest.mark.parametrize(
    "entries", [[("a", b"1"), ("a", b"2")], [("a", b"1"), ("a/b", b"2")], [("a/b", b""), ("a", b"")]]
)
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_path_that_comes_twice_is_refused(tmp_path: Path, name: str, entries: list[Entry]) -> None:
    assert refusal(tmp_path, name, MAKERS[name](entries)) == "ARCHIVE_UNSAFE_PATH"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    content = make_tar([("link", b"")], kind=kind)
    assert refusal(tmp_path, "a.tar", content) in ("ARCHIVE_LINK", "ARCHIVE_EMPTY")
    if kind != b"Z":
        assert refusal(tmp_path, "a.tar", content) == "ARCHIVE_LINK"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, kind: int) -> None:
    assert refusal(tmp_path, "a.zip", make_zip([("link", b"/etc/passwd")], mode=kind | 0o777)) == "ARCHIVE_LINK"


@pytest.mark.parametrize("name", MAKERS)
def test_more_bytes_than_allowed_are_refused(tmp_path: Path, name: str) -> None:
    content = MAKERS[name]([("a", b"x" * 600), ("b", b"y" * 600)])
    assert refusal(tmp_path, name, content, max_bytes=1199) == "ARCHIVE_TOO_LARGE"


@pytest.mark.parametrize("name", MAKERS)
def test_exactly_as_many_bytes_as_allowed_are_taken(tmp_path: Path, name: str) -> None:
    assert len(attempt(tmp_path, name, MAKERS[name]([("a", b"x" * 600), ("b", b"y" * 600)]), max_bytes=1200)[0]) == 2


@pytest.mark.parametrize("name", MAKERS)
def test_more_files_than_allowed_are_refused(tmp_path: Path, name: str) -> None:
    content = MAKERS[name]([(f"f{number}", b"") for number in range(6)])
    assert refusal(tmp_path, name, content, max_files=5) == "ARCHIVE_TOO_LARGE"


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, name, MAKERS[name]([("zeros", bytes(80 * 2**20))])) == "ARCHIVE_TOO_LARGE"


def test_a_zip_that_understates_its_sizes_gains_nothing(tmp_path: Path) -> None:
    honest = make_zip([("a", b"x" * 5000)])
    lying = honest.replace(struct.pack("<L", 5000), struct.pack("<L", 5))
    assert refusal(tmp_path, "a.zip", lying, max_bytes=1000) in ("ARCHIVE_CORRUPT", "ARCHIVE_TOO_LARGE")


def test_a_zip_whose_table_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    claimed = bytearray(make_zip([("a", b"x")]))
    at = claimed.rindex(b"PK\x05\x06")
    claimed[at + 12 : at + 16] = struct.pack("<L", 2**31)
    assert refusal(tmp_path, "a.zip", bytes(claimed)) in ("ARCHIVE_TOO_LARGE", "ARCHIVE_CORRUPT")


def test_a_tar_whose_header_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2**31
    assert refusal(tmp_path, "a.tar", member.tobuf(tarfile.GNU_FORMAT) + bytes(10240)) == "ARCHIVE_TOO_LARGE"


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_cut_off_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    content = MAKERS[name]([("a", b"x" * 700), ("b", bytes(1024)), ("c", b"z" * 10)])
    end = {"a.tar": 5 * 512 + 2 * 512 + 512}.get(name, len(content))
    for cut in range(1, end, 37 if name != "a.tar" else 128):
        assert refusal(tmp_path, name, content[:cut]) in ("ARCHIVE_CORRUPT", "ARCHIVE_EMPTY")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_a_flipped_bit_is_noticed(tmp_path: Path, name: str) -> None:
    content = bytearray(MAKERS[name]([("a", bytes(range(256)) * 50)]))
    content[len(content) // 3] ^= 4
    assert refusal(tmp_path, name, bytes(content)).startswith("ARCHIVE_")


@pytest.mark.parametrize("name", [*MAKERS, "a.tgz"])
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, name, b"this is no archive at all" * 100) == "ARCHIVE_CORRUPT"
    assert refusal(tmp_path, name, b"") == "ARCHIVE_EMPTY"


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_without_files_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, name, MAKERS[name]([])) == "ARCHIVE_EMPTY"


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(make_zip([("a", b"secret")], method=zipfile.ZIP_STORED))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    assert refusal(tmp_path, "a.zip", bytes(content)) == "ARCHIVE_UNSUPPORTED"


def test_an_unknown_compression_in_a_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(make_zip([("a", b"x")], method=zipfile.ZIP_STORED))
    content[8] = 99
    content[content.index(b"PK\x01\x02") + 10] = 99
    assert refusal(tmp_path, "a.zip", bytes(content)) == "ARCHIVE_UNSUPPORTED"


@pytest.mark.parametrize("name", ["a.rar", "a.7z", "model", "a.gz"])
def test_another_kind_of_archive_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, name, b"whatever") == "ARCHIVE_UNSUPPORTED"


def test_zstd_is_unpacked_or_refused_by_name(tmp_path: Path) -> None:
    if importlib.util.find_spec("zstandard") is None:
        assert refusal(tmp_path, "a.tar.zst", b"x") == "ARCHIVE_UNSUPPORTED"
        return
    compressor = importlib.import_module("zstandard").ZstdCompressor()
    content = compressor.compress(make_tar([("a", b"hello" * 9999)]))
    assert refusal(tmp_path, "a.tar.zst", b"no zstd at all") == "ARCHIVE_CORRUPT"
    assert refusal(tmp_path, "a.tar.zst", content[:-9]) == "ARCHIVE_CORRUPT"
    assert attempt(tmp_path, "a.tar.zst", content)[0] == [Path("a")]


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "mine").write_text("kept")
    with pytest.raises(ValueError, match="not empty"):
        attempt(tmp_path, "a.tar", make_tar([("a", b"1")]))
    assert (tmp_path / "into" / "mine").read_text() == "kept"


names = st.lists(
    st.one_of(
        st.sampled_from(["..", ".", "", "a", "b", "~", "C:", "con", "a\\b", "\u202e", "\x00"]), st.text(max_size=8)
    ),
    min_size=1,
    max_size=6,
).map("/".join)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["a.tar", "a.zip"]), st.lists(names, min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_name_whatever_leads_outside(name: str, hostile: list[str]) -> None:
    try:
        content = MAKERS[name]([(each, b"x") for each in hostile])
    except (UnicodeEncodeError, ValueError):
        return
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        try:
            files, into = attempt(tmp, name, content)
        except Invalid:
            assert list((tmp / "into").iterdir()) == []
        else:
            real = sorted(path.relative_to(into) for path in into.rglob("*") if path.is_file())
            assert sorted(files) == real
        assert sorted(path.name for path in tmp.iterdir()) == sorted([name, "into"])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(MAKERS)), st.data())
def test_damage_anywhere_is_a_clear_refusal_or_harmless(name: str, data: st.DataObject) -> None:
    content = bytearray(MAKERS[name]([("a/b", b"x" * 700), ("c", b"y" * 30)]))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        with contextlib.suppress(Invalid):
            attempt(tmp, name, bytes(content))
            return
        assert list((tmp / "into").iterdir()) == []
