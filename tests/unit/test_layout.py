"""The shape of the house that import contracts cannot say."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "aiwm"
BANNED_WORDS = {"manager", "managers", "helper", "helpers", "utils", "util", "common", "misc"}


def _modules(folder: str) -> list[Path]:
    return sorted((SOURCE / folder).rglob("*.py"))


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def _foreign(path: Path, *allowed: str) -> set[str]:
    return {
        name
        for name in _imported(path)
        if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith(allowed or ("\0",))
    }


@pytest.mark.parametrize("path", _modules("kit"), ids=lambda path: path.name)
def test_kit_uses_the_standard_library_only(path: Path) -> None:
    assert not _foreign(path, "aiwm.kit")


@pytest.mark.parametrize("path", _modules("protocol"), ids=lambda path: path.name)
def test_protocol_uses_pydantic_and_kit_only(path: Path) -> None:
    assert not _foreign(path, "aiwm.kit", "aiwm.protocol", "pydantic")


def test_the_keeper_of_an_engine_runs_without_the_product() -> None:
    assert not _foreign(SOURCE / "daemon" / "keeper.py")


def test_every_module_says_why_it_exists() -> None:
    silent = [path for path in SOURCE.rglob("*.py") if ast.get_docstring(ast.parse(path.read_text())) is None]
    assert not silent


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [path for path in SOURCE.rglob("*.py") if set(path.stem.split("_")) & BANNED_WORDS]


def test_unit_tests_mirror_the_source() -> None:
    unit = Path(__file__).parent
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert not [folder for folder in folders if not (SOURCE / folder).is_dir()]
