"""Whether an engine may be started as a deployment wishes: what is refused here need not wait for a node. Pure."""

from aiwm.deployments.records import Wish
from aiwm.protocol.engine_options import check_options
from aiwm.protocol.errors import FieldError, Invalid
from aiwm.protocol.states import EngineName

OF_ENGINE = frozenset({"engine_args", "environment_variables", "image", "health_path", "port"})
"""What of a wish is judged here."""


def check_engine(wish: Wish) -> None:
    """Raises `Invalid` that names each field which the wish's engine does not take."""
    check_options(wish.engine, wish.engine_args, wish.environment_variables)
    fields = _misplaced(wish)
    if fields:
        raise Invalid(f"cannot start {wish.engine} like that: {fields[0].message}", fields=fields)


def _misplaced(wish: Wish) -> list[FieldError]:
    custom = wish.engine is EngineName.CUSTOM
    given = {"healthPath": wish.health_path is not None, "port": wish.port is not None}
    found = [
        _refused(name, f"{name} is for engine custom; {wish.engine} knows its own")
        for name, is_given in given.items()
        if is_given and not custom
    ]
    if custom and wish.port is not None and wish.image is None:
        found.append(_refused("port", "port is an image's own; a command is told its port as PORT, so leave it out"))
    if custom and wish.image is None and not wish.engine_args:
        found.append(_refused("image", "set image, or engineArgs to a program and its arguments"))
    return found


def _refused(name: str, reason: str) -> FieldError:
    return FieldError(field=name, message=reason, code="NOT_OF_THIS_ENGINE")
