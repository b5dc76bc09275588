"""Triton's `config.pbtxt`: what must be known of one that was uploaded."""

import re
from collections.abc import Iterator

CONFIG = "config.pbtxt"

# A text that does not end is one all the same: looking for its end again at each of its quotes would take hours.
_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?|[{}\[\]]|\w+""")
_VALUE = re.compile(r"""\s*:\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')(?:\s*[,;])?""")
_STEP = re.compile(r"""\bmodel_name\s*:\s*["']([^"']+)["']""")


def without_name(config: str) -> str:
    """`config` without its top-level `name`, which would have to be the folder's; other names are left alone."""
    for start, end, _ in _top_level(config, "name"):
        return config[:start] + config[end:]
    return config


def setting(config: str, field: str) -> str:
    """The value of a top-level field of text; empty when it is not there."""
    for _, _, value in _top_level(config, field):
        return value
    return ""


def is_ensemble(config: str) -> bool:
    """Whether the model is one made of other models."""
    return setting(config, "platform") == "ensemble"


def steps(config: str) -> set[str]:
    """The models that an ensemble is made of."""
    return set(_STEP.findall(config))


def _top_level(config: str, field: str) -> Iterator[tuple[int, int, str]]:
    depth = 0
    for token in _TOKEN.finditer(config):
        text = token.group()
        if text in "{[":
            depth += 1
        elif text in "}]":
            depth -= 1
        elif depth == 0 and text == field and (value := _VALUE.match(config, token.end())):
            yield token.start(), value.end(), value.group(1)[1:-1]
