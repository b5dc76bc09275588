"""Values of engine arguments that are JSON objects: none of their texts may name a file, and some no code either."""

import json
import re
from collections.abc import Iterator

_SPECULATION_METHOD = re.compile(r"ngram|ngram_gpu|suffix|mtp|[a-z0-9_]{1,32}_mtp", re.ASCII)
_SPECULATION_NUMBERS = re.compile(
    r"num_speculative_tokens|prompt_lookup_(max|min)|disable_by_batch_size|draft_tensor_parallel_size"
    r"|suffix_decoding_max_(tree_depth|cached_requests|spec_factor)|suffix_decoding_min_token_prob"
)


def names_no_file(text: str) -> bool:
    """Whether it is a JSON object with no text, however deep, that could be a path."""
    value = _object(text)
    return value is not None and not any(map(_could_be_path, _texts(value)))


def names_no_code(text: str) -> bool:
    """Whether it is a JSON object with no text that could be a path or a dotted name: those an engine may import."""
    value = _object(text)
    return value is not None and not any(_could_be_path(each) or _is_dotted_name(each) for each in _texts(value))


def speculates_alone(text: str) -> bool:
    """Whether it configures speculative decoding out of the model itself, with no draft model beside it."""
    value = _object(text)
    if value is None or not isinstance(method := value.pop("method", None), str):
        return False
    return _SPECULATION_METHOD.fullmatch(method) is not None and all(
        _SPECULATION_NUMBERS.fullmatch(name) and type(number) in (int, float) for name, number in value.items()
    )


def _object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _could_be_path(text: str) -> bool:
    return re.search(r"[/\\~\x00]|^\.+$", text) is not None


def _is_dotted_name(text: str) -> bool:
    return re.search(r"\w\.[^\W\d]", text) is not None
