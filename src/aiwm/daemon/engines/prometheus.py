"""Single numbers out of a page in Prometheus's text format, without taking the rest of it apart."""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
# The most that the protocol carries: beyond it JSON's readers lose digits.
_MOST = 2**53


def samples(page: str, names: Collection[str], labels: Mapping[str, str] | None = None) -> dict[str, float]:
    """Of each of `names` on the page the sum of its samples, or of those that have `labels`.

    Values and sums that are not finite are left out, and so is what cannot be read.
    """
    wanted, starts = frozenset(names), tuple(names)
    found: defaultdict[str, float] = defaultdict(float)
    for line in page.split("\n"):
        if not line.startswith(starts):
            continue
        head, brace, tail = line.rpartition("}")
        name, _, told = head.partition("{") if brace else (line.split(None, 1)[0], "", "")
        if name not in wanted or (labels and not _has(told, labels)):
            continue
        value = _value(tail if brace else line[len(name) :])
        if value is not None:
            found[name] += value
    return {name: total for name, total in found.items() if math.isfinite(total)}


def count(value: float | None) -> int | None:
    """`value` as a number of things; None where it is none that can be told of, or there is none."""
    return None if value is None or not 0 <= value <= _MOST else int(value)


def seconds(value: float | None) -> float | None:
    """`value` as a length of time; None where it is none that can be told of, or there is none."""
    return None if value is None or not 0 <= value <= _MOST else round(value, 3)


def _has(told: str, labels: Mapping[str, str]) -> bool:
    own = {name: _ESCAPED.sub(_plain, value) for name, value in _LABEL.findall(told)}
    return labels.items() <= own.items()


def _plain(escaped: re.Match[str]) -> str:
    return "\n" if escaped[1] == "n" else escaped[1]


def _value(text: str) -> float | None:
    """The first word of `text`; a second one would be a moment."""
    try:
        value = float(text.split(None, 1)[0])
    except (ValueError, IndexError):
        return None
    return value if math.isfinite(value) else None
