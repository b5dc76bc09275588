"""A model's files as the repository Triton reads, whichever of the usual shapes they were uploaded in."""

import re
from itertools import takewhile
from pathlib import Path, PurePosixPath

from aiwm.daemon.engines.triton_config import CONFIG, is_ensemble, steps, without_name
from aiwm.daemon.engines.triton_files import Files, Parts, folders_of, read_folder, unusable
from aiwm.daemon.engines.triton_plain import VERSION, Layout, lay_out_plain

_TOP = PurePosixPath()
_VERSION = re.compile(r"[0-9]+")


def lay_out(artifact: Path, repository: Path, served_as: str, framework: str = "triton", *, gpus: bool = False) -> None:
    """Builds `repository` so that the artifact's model is served as `served_as`.

    The artifact is one model's folder, a repository of several of which one is to be served and the others belong to
    it, or plain files as `framework` has them. Files are linked, not copied; a configuration's own name is left out.
    Raises `Invalid`.
    """
    files = read_folder(artifact)
    layout = plan(files, served_as, framework, gpus=gpus)
    for place, content in sorted(layout.items()):
        target = repository / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            target.write_text(content)
        else:
            target.symlink_to(artifact / content)


def plan(files: Files, served_as: str, framework: str, *, gpus: bool) -> Layout:
    """What belongs where in the repository. Raises `Invalid`."""
    top = _past_wrappers(files)
    models = [top] if _is_model(files, top) else [each for each in files.folders(top) if _is_model(files, each)]
    if not models:
        return _checked(_under(served_as, lay_out_plain(files, top, framework, gpus=gpus)))
    main = _main(files, models, served_as)
    layout: Layout = {}
    for model in models:
        layout |= _under(served_as if model == main else model.name, _model(files, model, framework, gpus=gpus))
    return _checked(layout)


def _past_wrappers(files: Files) -> PurePosixPath:
    """The first folder with more in it than one folder."""
    folder = _TOP
    while not _is_model(files, folder):
        inner = files.folders(folder)
        if len(inner) != 1 or len(files.names(folder)) != 1:
            break
        folder = inner[0]
    return folder


def _is_model(files: Files, folder: PurePosixPath) -> bool:
    return folder / CONFIG in files or _has_versions(files, folder)


def _has_versions(files: Files, folder: PurePosixPath) -> bool:
    """Whether it has a folder that is a version: any numbered one if there is a configuration, else one with `model.…`.

    TensorFlow's own exports are numbered too, but their files lie one folder higher than Triton wants them.
    """
    configured = folder / CONFIG in files
    return any(
        configured or any(name.startswith("model.") for name in files.names(version))
        for version in files.folders(folder)
        if _VERSION.fullmatch(version.name) and version / "saved_model.pb" not in files
    )


def _main(files: Files, models: list[PurePosixPath], served_as: str) -> PurePosixPath:
    if len(models) == 1:
        return models[0]
    named = [model for model in models if model.name == served_as]
    configs = {model: files.text(model / CONFIG) for model in models if model / CONFIG in files}
    ensembles = {model: steps(config) for model, config in configs.items() if is_ensemble(config)}
    parts = set().union(*ensembles.values())
    outermost = [model for model in ensembles if model.name not in parts]
    for candidates in (named, outermost):
        if len(candidates) == 1:
            return candidates[0]
    names = ", ".join(model.name for model in models)
    raise unusable(
        f"it holds several ({names}), and none is named {served_as} like the deployment; "
        f"name the deployment like one of them, or upload an ensemble of them"
    )


def _model(files: Files, folder: PurePosixPath, framework: str, *, gpus: bool) -> Layout:
    config = files.text(folder / CONFIG) if folder / CONFIG in files else None
    ensemble = config is not None and is_ensemble(config)
    if not ensemble and not _has_versions(files, folder):
        return lay_out_plain(files, folder, framework, gpus=gpus)
    layout: Layout = {path: folder / path for path in files.below(folder)}
    if ensemble and not _has_versions(files, folder):
        # Triton wants the folder of a version that has no files, and an upload holds no empty folders.
        layout[VERSION / ".keep"] = ""
    if config is not None:
        layout[PurePosixPath(CONFIG)] = without_name(config)
    return layout


def _under(name: str, layout: Layout) -> Layout:
    return {PurePosixPath(name) / place: content for place, content in layout.items()}


def _checked(layout: Layout) -> Layout:
    places = {place.parts: content for place, content in layout.items()}
    seen: set[Parts] = set()
    for place in layout:
        for parts in takewhile(lambda each: each not in seen, folders_of(place)):
            seen.add(parts)
            if parts in places:
                folder = PurePosixPath(*parts)
                raise unusable(f"{places[parts]} stands where Triton needs the folder {folder}; rename it")
    return layout
