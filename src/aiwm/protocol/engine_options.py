"""What a deployment may say to its engine besides its resources: checked where it is asked for, and on the node."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aiwm.protocol.engine_arguments import ALLOWED, REMOTE_CODE, Allowed
from aiwm.protocol.engine_variables import objection
from aiwm.protocol.errors import FieldError, Invalid
from aiwm.protocol.states import EngineName


@dataclass(frozen=True, slots=True)
class Option:
    """One argument under its full name, and its value where it takes one."""

    name: str
    value: str | None = None

    @property
    def text(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


@dataclass(frozen=True, slots=True)
class _Refusal:
    index: int
    reason: str


def check_options(
    engine: EngineName, arguments: Sequence[str], variables: Mapping[str, str], *, code: str = "VALIDATION_FAILED"
) -> None:
    """Raises `Invalid` that names each argument and variable which is not the deployment's to give."""
    fields = [
        FieldError(field=f"engineArgs[{each.index}]", message=each.reason, code="ARGUMENT_NOT_ALLOWED")
        for each in _read(engine, arguments)
        if isinstance(each, _Refusal)
    ]
    fields += [
        FieldError(field=f"environmentVariables.{name}", message=reason, code="VARIABLE_NOT_ALLOWED")
        for name, value in variables.items()
        if (reason := objection(engine, name, value)) is not None
    ]
    if fields:
        first = fields[0]
        raise Invalid(f"cannot start {engine} like that: {first.field}: {first.message}", code=code, fields=fields)


def options(engine: EngineName, arguments: Sequence[str]) -> list[Option]:
    """Checked arguments, each in one piece, so that an engine reads them exactly as they were checked."""
    return [each for each in _read(engine, arguments) if isinstance(each, Option)]


def wants_remote_code(given: Sequence[Option]) -> bool:
    """Whether the deployment asks for Python code among the model's files to be run."""
    return any(each.name == REMOTE_CODE for each in given)


def _read(engine: EngineName, arguments: Sequence[str]) -> Iterator[Option | _Refusal]:
    allowed = ALLOWED.get(engine)
    if allowed is None:
        yield from _read_free(arguments)
        return
    index = 0
    while index < len(arguments):
        following = arguments[index + 1] if index + 1 < len(arguments) else None
        found, taken = _one(allowed, index, arguments[index], following)
        yield found
        index += taken


def _read_free(arguments: Sequence[str]) -> Iterator[Option | _Refusal]:
    for index, each in enumerate(arguments):
        yield _Refusal(index, "holds a NUL character") if "\0" in each else Option(each)


def _one(allowed: Allowed, index: int, text: str, following: str | None) -> tuple[Option | _Refusal, int]:
    """What one argument is, and how many pieces it takes up."""
    given, joined, value = text.partition("=")
    name = given.replace("_", "-") if allowed.underscores else given
    switch = f"--{name.removeprefix('--no-')}" if allowed.negatable and name.startswith("--no-") else name
    if switch not in allowed.arguments or (switch != name and allowed.arguments[switch] is not None):
        return _Refusal(index, _why_not(allowed, name)), 1
    kind = allowed.arguments[switch]
    if kind is None:
        return (_Refusal(index, f"{name} takes no value"), 1) if joined else (Option(name), 1)
    taken = 1
    if not joined:
        if following is None or following.startswith("--"):
            return _Refusal(index, f"{name} needs a value"), 1
        value, taken = following, 2
    if not kind.fits(value):
        return _Refusal(index, f"the value of {name} must be {kind.words}"), taken
    return Option(name, value), taken


def _why_not(allowed: Allowed, name: str) -> str:
    if not name.startswith("--"):
        return "arguments are given by their long names, like --name=value"
    shown = name if len(name) <= 64 else f"{name[:64]}…"
    known = allowed.refused.get(name)
    return (
        f"{shown} is not a deployment's to give: {known or 'it is not among the arguments that docs/engines.md lists'}"
    )
