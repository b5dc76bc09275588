"""`aiwm audit verify`: reads the audit log from the store or from an exported file, and says where its chain breaks."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiwm.kit.settings import Settings, SettingsError, load_settings
from aiwm.protocol.audit import ChainCheck
from aiwm.protocol.errors import AiwmError, Invalid

_ABOUT = (
    "Checks the chain of the audit log: exit code 0 when it holds, 1 with the first broken link. Without FILE it reads "
    "the store that AIWM_STORE_URL names, or the one of `aiwm up`. Keep the last line it prints somewhere else: given "
    "as --head later, it shows whether everything up to there is still what it was, and that nothing was cut off."
)


def audit_parser() -> argparse.ArgumentParser:
    """`audit verify [FILE] [--head SEQ:HASH] [--config PATH] [--data-dir PATH]`."""
    parser = argparse.ArgumentParser(prog="aiwm audit", description="The audit log, on the server's side.")
    verify = parser.add_subparsers(dest="command", required=True).add_parser(
        "verify", help="check the chain", description=_ABOUT
    )
    verify.add_argument("file", nargs="?", type=Path, metavar="FILE", help="exported JSON lines instead of the store")
    verify.add_argument("--head", help="SEQ:HASH as an earlier run printed it")
    verify.add_argument("--config", type=Path, help="settings file (default: aiwm.toml in this folder)")
    verify.add_argument("--data-dir", help="where `aiwm up` keeps its store")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 the chain holds, 1 it does not or cannot be read, 2 wrongly called."""
    given = audit_parser().parse_args(arguments)
    try:
        expected = _head(given.head)
        settings = None if given.file else load_settings({"data_dir": given.data_dir}, config=given.config)
        return asyncio.run(_verify(given.file, settings, expected))
    except SettingsError as error:
        print(f"aiwm audit: {error}", file=sys.stderr)
        return 2
    except (AiwmError, OSError) as error:
        print(f"aiwm audit: {error}", file=sys.stderr)
        return 1


async def _verify(file: Path | None, settings: Settings | None, expected: tuple[int, str] | None) -> int:
    check, found = ChainCheck(), expected is None
    async for entry in _from_store(settings) if settings is not None else _from_file(file or Path()):
        if not check.add(entry):
            break
        found = found or (check.seq, check.head) == expected
    if check.broken is not None:
        print(f"broken: {check.broken}")
        return 1
    if not found and expected is not None:
        print(f"broken: entry {expected[0]} is gone or is not what it was: it had the hash {expected[1]}")
        return 1
    print(f"the chain holds: {check.count} entries\n{check.seq}:{check.head}")
    return 0


async def _from_store(settings: Settings) -> AsyncIterator[dict[str, object]]:
    from aiwm.access.audit.log import AuditLog
    from aiwm.infra.store.open import open_store
    from aiwm.kit.clock import SystemClock

    database = settings.data_dir / "aiwm.db"
    if not settings.store_url and not database.exists():
        raise SettingsError(f"there is no store in {settings.data_dir}; set AIWM_STORE_URL, or give a FILE")
    settings = replace(settings, store_url=settings.store_url or f"sqlite://{database}")
    store = await open_store(settings.store_url)
    try:
        async for entry in AuditLog(store, SystemClock()).entries():
            yield entry.to_wire()
    finally:
        await store.close()


async def _from_file(path: Path) -> AsyncIterator[dict[str, object]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            yield _object(line, number, path)


def _object(line: bytes, number: int, path: Path) -> dict[str, object]:
    try:
        entry: Any = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise Invalid(f"cannot read {path}: line {number} is no JSON object; export it again")
    return entry


def _head(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    seq, _, digest = text.partition(":")
    if not seq.isdigit() or len(digest) != 64:
        raise SettingsError("--head must be SEQ:HASH, as an earlier run printed it")
    return int(seq), digest
