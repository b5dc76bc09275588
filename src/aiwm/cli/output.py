"""How answers are shown: tables for people, the API's own JSON or YAML for programs, errors in one line."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

import typer
import yaml
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from aiwm.protocol.errors import AiwmError, Invalid

R = TypeVar("R")

_WIDE = 100_000
_STYLES = {
    "online": "green",
    "running": "green",
    "ready": "green",
    "deploying": "yellow",
    "downloading": "yellow",
    "queued": "yellow",
    "pending": "yellow",
    "offline": "dim",
    "stopped": "dim",
    "error": "red",
    "failed": "red",
}


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to show the answer.", show_default=True)]


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """One column of a table."""

    title: str
    cell: Callable[[R], str]


def console(*, stderr: bool = False) -> Console:
    """For people when it is a terminal; else plain text that is never wrapped or cut."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else _WIDE)


def show_json(payload: object, form: Format) -> None:
    """The API's answer, as it is."""
    if form is Format.YAML:
        sys.stdout.write(yaml.safe_dump(payload, sort_keys=False, allow_unicode=True))
    else:
        print(json.dumps(payload, indent=2, ensure_ascii=False))


def show_rows(rows: Sequence[R], columns: Sequence[Column[R]]) -> None:
    """A table, one row each; lines are as long as they must be, so that ids can be copied."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    widths = [
        max(map(cell_len, (column.title, *(line[place] for line in cells)))) for place, column in enumerate(columns)
    ]
    out = console()
    out.print(_line([Text(column.title, style="bold") for column in columns], widths), soft_wrap=True)
    for line in cells:
        out.print(_line([_styled(cell) for cell in line], widths), soft_wrap=True)


def show_fields(payload: dict[str, object]) -> None:
    """One resource, a field a line, without what is empty."""
    fields = {name: _plain(value) for name, value in payload.items() if value not in (None, [], {}, "")}
    width = max(map(len, fields), default=0)
    out = console()
    for name, value in fields.items():
        first, *more = value.split("\n")
        out.print(_line([Text(name, style="bold"), _styled(first)], [width]), soft_wrap=True)
        for each in more:
            out.print(_line([Text(""), Text(each)], [width]), soft_wrap=True)


def _line(cells: Sequence[Text], widths: Sequence[int]) -> Text:
    """Cells beside each other; the last one is not filled up."""
    for cell, width in zip(cells[:-1], widths, strict=False):
        cell.append(" " * (width - cell.cell_len))
    return Text("  ").join(cells)


def say(line: str) -> None:
    """A remark for people, on standard error, so that answers stay clean."""
    console(stderr=True).print(escape(line), soft_wrap=True)


def show_error(error: AiwmError) -> None:
    """`error: <sentence> (CODE, correlation id …)`, and the fields that do not fit below it."""
    correlation = error.details.get("correlationId")
    origin = f"{error.code}, correlation id {correlation}" if correlation else error.code
    out = console(stderr=True)
    out.print(f"[bold red]error:[/] {escape(error.message)} ({escape(origin)})", soft_wrap=True)
    if isinstance(error, Invalid):
        for each in error.fields:
            out.print(f"  [bold]{escape(each.field)}[/]: {escape(each.message)}", soft_wrap=True)


def age(moment: datetime | None) -> str:
    """How long ago, in one unit."""
    if moment is None:
        return "never"
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def size(count: float | None, base: str = "B") -> str:
    """Bytes (or MiB, with `base="MiB"`) in the unit people read."""
    if count is None:
        return "-"
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    units = units[units.index(base) :]
    for unit in units:
        if count < 1024 or unit == units[-1]:
            return f"{count:.0f} {unit}" if unit == units[0] else f"{count:.1f} {unit}"
        count /= 1024
    return "-"


def _styled(text: str) -> Text:
    return Text(text, style=_STYLES.get(text, ""))


def _plain(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        return "\n".join(json.dumps(each, ensure_ascii=False) for each in value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else str(value)
