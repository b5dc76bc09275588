"""What a model's files say of how vLLM is started: where the model is, how it can be split, its adapters."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiwm.protocol.errors import Invalid

CONFIG = "config.json"
_MISTRAL_CONFIG = "params.json"
_ADAPTER = "adapter_config.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf")
_NOT_OF_NAMES = re.compile(r"[^A-Za-z0-9._-]")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: the name it is asked for under, its folder, and the rank it was trained with."""

    name: str
    folder: Path
    rank: int


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """`path` is what vLLM is told to serve: a folder, or a GGUF file with its `tokenizer` and `config` folders beside.

    `heads` are the attention heads, None where the files do not say.
    """

    path: Path
    heads: int | None = None
    tokenizer: Path | None = None
    config: Path | None = None
    adapters: tuple[Adapter, ...] = ()


def look_into(artifact: Path) -> ModelFiles:
    """Finds the model in its files, also one folder deeper. Raises `Invalid` when there is none vLLM could serve."""
    home = _home(artifact)
    has_config = (home / CONFIG).is_file()
    heads = _heads(_read(home / CONFIG)) if has_config else None
    adapters = _adapters(artifact, home)
    packed = [each for each in sorted(home.glob("*.gguf")) if not _LATER_PART.search(each.name)]
    if packed and not any(next(home.glob(pattern), None) for pattern in _WEIGHTS):
        if len(packed) > 1:
            raise _unusable(f"it holds several ({', '.join(each.name for each in packed)}); upload one .gguf file")
        tokenizer = home if any((home / name).is_file() for name in _TOKENIZERS) else None
        return ModelFiles(packed[0], heads, tokenizer, home if has_config else None, adapters)
    if has_config or (home / _MISTRAL_CONFIG).is_file():
        return ModelFiles(home, heads, adapters=adapters)
    if (home / _ADAPTER).is_file():
        raise _unusable("it is an adapter without its base model; upload the base model with the adapter in a folder")
    raise _unusable(f"there is no {CONFIG} and no .gguf file in it; upload a model in HuggingFace's layout")


def _home(artifact: Path) -> Path:
    """The folder that holds the model itself."""
    if _is_model(artifact):
        return artifact
    inner = [each for each in sorted(artifact.iterdir()) if each.is_dir() and _is_model(each)]
    if len(inner) > 1:
        raise _unusable(f"it holds several ({', '.join(each.name for each in inner)}); upload one")
    return inner[0] if inner else artifact


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG, _MISTRAL_CONFIG)) or any(folder.glob("*.gguf"))


def _adapters(artifact: Path, home: Path) -> tuple[Adapter, ...]:
    found: dict[str, Adapter] = {}
    for path in sorted(artifact.rglob(_ADAPTER)):
        folder = path.parent
        if folder == home:
            continue
        name = _NOT_OF_NAMES.sub("_", folder.name)
        if name in found:
            raise _unusable(f"two of its adapters are called {name}; give their folders names of their own")
        found[name] = Adapter(name, folder, _rank(path))
    return tuple(found.values())


def _rank(path: Path) -> int:
    rank = _read(path).get("r")
    if not isinstance(rank, int) or rank < 1:
        raise _unusable(f"{path.parent.name}/{_ADAPTER} has no rank `r`; only LoRA adapters can be served")
    return rank


def _heads(config: Mapping[str, Any]) -> int | None:
    """Models that also see or hear keep what is said of their language part apart."""
    inner = config.get("text_config")
    text = {**config, **inner} if isinstance(inner, dict) else config
    heads = text.get("num_attention_heads", text.get("n_head"))
    return heads if isinstance(heads, int) and heads > 0 else None


def _read(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise _unusable(f"{path.name} has more than {_MOST_BYTES} bytes; leave out what is no setting")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unusable(f"{path.name} is not JSON: {error}; upload it again") from error
    if not isinstance(content, dict):
        raise _unusable(f"{path.name} is not a JSON object")
    return content


def _unusable(reason: str) -> Invalid:
    return Invalid(f"cannot serve the model: {reason}", code="COMMAND_INVALID")
