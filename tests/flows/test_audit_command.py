"""`aiwm audit verify`, on a store and on an exported file, whole and tampered with."""

import json
import sqlite3
from pathlib import Path

import pytest

from aiwm.__main__ import main
from aiwm.access.audit.log import AuditLog
from aiwm.http.audit import Deed
from aiwm.infra.store.open import open_store
from aiwm.kit.acting import Act
from aiwm.kit.clock import SystemClock
from aiwm.protocol.audit import AuditTarget


async def _log(folder: Path, count: int = 4) -> list[dict[str, object]]:
    store = await open_store(f"sqlite://{folder}/aiwm.db")
    try:
        log = AuditLog(store, SystemClock())
        for index in range(count):
            target = AuditTarget(kind="nodes", id=f"node-{index}")
            await log.record(Deed("mutation", "nodes.create", target, "ok", 201), Act("203.0.113.7"))
        return [entry.to_wire() async for entry in log.entries()]
    finally:
        await store.close()


@pytest.fixture
async def exported(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in await _log(tmp_path)))
    return path


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["audit", "verify", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out + out.err


def test_a_whole_log_holds_in_the_store_and_in_a_file(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = _run(capsys, exported)
    assert (code, told.splitlines()[0]) == (0, "the chain holds: 4 entries")
    assert _run(capsys, "--data-dir", exported.parent) == (code, told)
    assert _run(capsys, exported, "--head", told.splitlines()[1])[0] == 0


def test_the_first_broken_link_is_named(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = exported.read_text().splitlines(keepends=True)
    exported.write_text("".join([lines[0], lines[1].replace("node-1", "node-9"), *lines[2:]]))
    assert _run(capsys, exported) == (1, "broken: entry 2 was changed: its hash does not fit what it says\n")


def test_a_record_changed_in_the_store_is_found(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(exported.parent / "aiwm.db") as db:
        db.execute("UPDATE audit SET doc = replace(doc, 'node-2', 'node-9')")
    db.close()
    code, told = _run(capsys, "--data-dir", exported.parent)
    assert (code, told) == (1, "broken: entry 3 was changed: its hash does not fit what it says\n")


def test_a_log_that_was_cut_off_is_found_by_its_earlier_head(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = _run(capsys, exported)[1].splitlines()[1]
    exported.write_text("".join(exported.read_text().splitlines(keepends=True)[:2]))
    assert _run(capsys, exported)[0] == 0
    code, told = _run(capsys, exported, "--head", head)
    assert (code, told.startswith("broken: entry 4 is gone")) == (1, True)


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("no json\n")
    assert _run(capsys, tmp_path / "x")[0] == 1
    assert _run(capsys, tmp_path / "none")[0] == 1
    assert _run(capsys, "--data-dir", tmp_path)[0] == 2
    assert _run(capsys, tmp_path / "x", "--head", "nonsense")[0] == 2
    with pytest.raises(SystemExit) as usage:
        main(["audit"])
    assert usage.value.code == 2
