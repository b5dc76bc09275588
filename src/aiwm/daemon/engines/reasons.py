"""An engine's own words for its end, told as one sentence that says what to do: tables of patterns, tried in order.

What an engine writes is not to be trusted: no pattern looks further than a few hundred characters from where it began.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Reason:
    """`words` may use the pattern's named groups."""

    pattern: re.Pattern[str]
    words: str


def reason(pattern: str, words: str) -> Reason:
    return Reason(re.compile(pattern, re.IGNORECASE | re.MULTILINE), words)


def told(reasons: Sequence[Reason], log: str) -> str | None:
    """The first reason whose pattern is found, in the words of its last mention."""
    for each in reasons:
        if found := list(each.pattern.finditer(log)):
            groups = {name: " ".join(text.split()) for name, text in found[-1].groupdict(default="").items()}
            return each.words.format(**groups)[:_LONGEST]
    return None
