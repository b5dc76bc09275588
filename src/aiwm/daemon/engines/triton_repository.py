"""A model's files as the repository Triton reads, whichever of the usual shapes they were uploaded in."""

import re
from collections.abc import Iterator
from pathlib import Path

from aiwm.protocol.errors import Invalid

CONFIG = "config.pbtxt"


def lay_out(artifact: Path, repository: Path, served_as: str) -> None:
    """Builds `repository` so that the artifact's model is served as `served_as`.

    The artifact is one model's folder, or a repository: of one model, or of several of which one is to be served and
    the others belong to it. Files are linked, not copied; a configuration's own name is left out. Raises `Invalid`.
    """
    if _is_model(artifact):
        _link_model(artifact, repository / served_as)
        return
    models = sorted(path for path in artifact.iterdir() if path.is_dir() and _is_model(path))
    if not models:
        raise Invalid(
            f"cannot serve the model: there is no Triton model in it; upload {CONFIG} and 1/model.… , "
            f"or a folder NAME with both",
            code="COMMAND_INVALID",
        )
    main = _main(models, served_as)
    for model in models:
        _link_model(model, repository / (served_as if model == main else model.name))


def _is_model(folder: Path) -> bool:
    if (folder / CONFIG).is_file():
        return True
    return any(path.is_dir() and path.name.isdigit() and any(path.iterdir()) for path in folder.iterdir())


def _main(models: list[Path], served_as: str) -> Path:
    if len(models) == 1:
        return models[0]
    named = [model for model in models if model.name == served_as]
    ensembles = [model for model in models if _is_ensemble(model / CONFIG)]
    for candidates in (named, ensembles):
        if len(candidates) == 1:
            return candidates[0]
    names = ", ".join(model.name for model in models)
    raise Invalid(
        f"cannot serve the model: it holds several ({names}), and none is named {served_as} like the deployment",
        code="COMMAND_INVALID",
    )


def _is_ensemble(config: Path) -> bool:
    return config.is_file() and re.search(r'platform\s*:\s*"ensemble"', config.read_text(errors="replace")) is not None


def _link_model(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.relative_to(source) == Path(CONFIG):
            place.write_text(without_name(path.read_text(errors="replace")))
        else:
            place.symlink_to(path)


def without_name(config: str) -> str:
    """`config` without its top-level `name`, which would have to be the folder's; other names are left alone."""
    for start, end in _top_level_names(config):
        return config[:start] + config[end:]
    return config


_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}\[\]]|\w+""")
_VALUE = re.compile(r"""\s*:\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')(?:\s*[,;])?""")


def _top_level_names(config: str) -> Iterator[tuple[int, int]]:
    depth = 0
    for token in _TOKEN.finditer(config):
        text = token.group()
        if text in "{[":
            depth += 1
        elif text in "}]":
            depth -= 1
        elif depth == 0 and text == "name" and (value := _VALUE.match(config, token.end())):
            yield token.start(), value.end()
