"""The page of promises names tests; a renamed or removed one must not leave a promise without its test."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def _tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_promise_has_a_test_that_exists() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "`tests/" in line]
    named = re.findall(r"`(tests/[^`]+\.py)::(\w+)`", PAGE)
    assert len(rows) > 30
    assert [f"{file}::{name}" for file, name in named if name not in _tests(ROOT / file)] == []
    assert all(re.search(r"`tests/[^`]+::\w+`", row) for row in rows)
