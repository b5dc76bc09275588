"""The verbs that all nouns share: ls, get, rm and apply, made once for each."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import typer

from aiwm.cli.documents import differences, read_documents
from aiwm.cli.output import Column, Format, Output, say, show_fields, show_json, show_rows
from aiwm.cli.session import run, signed_in
from aiwm.protocol.base import View
from aiwm.protocol.errors import Malformed, NotFound
from aiwm.protocol.resources.base import Resource
from aiwm.sdk.client import Client
from aiwm.sdk.nouns import Noun, listing, page_as

R = TypeVar("R", bound=Resource)

Reference = Annotated[str, typer.Argument(metavar="NAME|ID", help="Its name or id.")]
FileOption = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="YAML with the fields of a create, several documents allowed; - reads stdin."),
]
RequiredFile = Annotated[
    Path, typer.Option("--file", "-f", help="YAML with the fields of a create, several documents allowed.")
]


async def _as_written(_client: Client, document: dict[str, object]) -> dict[str, object]:
    return document


@dataclass(frozen=True, slots=True)
class Spec(Generic[R]):
    """One noun: where it is in the client, how a row looks, and how a document's names become ids."""

    singular: str
    plural: str
    of: Callable[[Client], Noun[R]]
    columns: Sequence[Column[R]]
    prepare: Callable[[Client, dict[str, object]], Awaitable[dict[str, object]]] = _as_written

    def show(self, resources: Sequence[R], form: Format) -> None:
        """What a changing command answers: the resource, or a list where there are several."""
        if form is Format.TABLE:
            show_rows(resources, self.columns)
        else:
            payload: Any = [each.to_wire() for each in resources]
            show_json(payload[0] if len(payload) == 1 else payload, form)

    async def created(self, client: Client, documents: Sequence[dict[str, object]]) -> list[R]:
        """Creates each."""
        return [await self.of(client).create(await self.prepare(client, each)) for each in documents]


def show_view(view: View, form: Format) -> None:
    """One answer that is not a resource."""
    if form is Format.TABLE:
        show_fields(view.to_wire())
    else:
        show_json(view.to_wire(), form)


def noun_app(spec: Spec[R], *, applies: bool = True) -> typer.Typer:
    """The noun's commands, with those that all share; `apply` is for what has a name."""
    does = "list, show, create, change, delete" if applies else "list, show, delete"
    app = typer.Typer(help=f"{spec.plural.capitalize()}: {does}.", no_args_is_help=True)
    _add_ls(app, spec)
    _add_get(app, spec)
    if applies:
        _add_apply(app, spec)
    _add_rm(app, spec)
    return app


def _add_ls(app: typer.Typer, spec: Spec[R]) -> None:
    @app.command("ls", help=f"List {spec.plural}.")
    def ls(
        page: Annotated[int, typer.Option(min=1, help="Which page.")] = 1,
        limit: Annotated[int, typer.Option(min=1, max=200, help="How many on a page.")] = 100,
        search: Annotated[str | None, typer.Option("--search", "-q", help="Words to look for.")] = None,
        sort: Annotated[str | None, typer.Option(help="Field to sort by, like name or -createdAt.")] = None,
        output: Output = Format.TABLE,
    ) -> None:
        async def work() -> None:
            async with signed_in() as client:
                noun = spec.of(client)
                payload = await client.request("GET", noun.path, params=listing(page, limit, sort, search, None))
            if output is not Format.TABLE:
                show_json(payload, output)
                return
            found = page_as(noun.kind, payload)
            show_rows(found.data, spec.columns)
            if found.pagination.total > page * limit:
                say(f"{found.pagination.total} in all; the next page: --page {page + 1}")

        run(work())


def _add_get(app: typer.Typer, spec: Spec[R]) -> None:
    @app.command("get", help=f"Show one {spec.singular} whole.")
    def get(reference: Reference, output: Output = Format.TABLE) -> None:
        async def work() -> None:
            async with signed_in() as client:
                noun = spec.of(client)
                payload = await client.request("GET", noun.at(await noun.resolve(reference)))
            if output is Format.TABLE and isinstance(payload, dict):
                show_fields(payload)
            else:
                show_json(payload, output)

        run(work())


def _add_rm(app: typer.Typer, spec: Spec[R]) -> None:
    @app.command("rm", help=f"Delete {spec.plural}.")
    def rm(references: Annotated[list[str], typer.Argument(metavar="NAME|ID...", help="Names or ids.")]) -> None:
        async def work() -> None:
            async with signed_in() as client:
                for reference in references:
                    noun = spec.of(client)
                    await noun.delete(await noun.resolve(reference))
                    say(f"{spec.singular} {reference} deleted")

        run(work())


def _add_apply(app: typer.Typer, spec: Spec[R]) -> None:
    @app.command("apply", help=f"Create {spec.plural} from a file, or change those of the same name to match it.")
    def apply(file: RequiredFile, output: Output = Format.TABLE) -> None:
        async def work() -> None:
            documents = read_documents(file)
            async with signed_in() as client:
                spec.show([await _applied(client, spec, each) for each in documents], output)

        run(work())


async def _applied(client: Client, spec: Spec[R], document: dict[str, object]) -> R:
    noun, name = spec.of(client), document.get("name")
    if not isinstance(name, str):
        raise Malformed("cannot apply a document: it has no name", code="FILE_UNREADABLE")
    wanted = await spec.prepare(client, document)
    try:
        current = await noun.get(await noun.resolve(name))
    except NotFound:
        say(f"{spec.singular} {name} created")
        return await noun.create(wanted)
    changes = differences(wanted, current.to_wire())
    if not changes:
        say(f"{spec.singular} {name} unchanged")
        return current
    changed = await noun.patch(noun.id_of(current), changes, if_version=current.resource_version)
    say(f"{spec.singular} {name} changed: {', '.join(changes)}")
    return changed


def documents_or(file: Path | None, name: str | None, fields: dict[str, object]) -> list[dict[str, object]]:
    """What a create is to make: a file's documents, or one from the command line (without what was not given)."""
    given = {key: value for key, value in fields.items() if value not in (None, [], {})}
    if file is not None:
        if name is not None or given:
            raise typer.BadParameter("give either a file or fields, not both")
        return read_documents(file)
    if name is None:
        raise typer.BadParameter("give a name, or a file with --file")
    return [{"name": name, **given}]


def pairs(values: Sequence[str], option: str) -> dict[str, object]:
    """`KEY=VALUE` options as an object."""
    found: dict[str, object] = {}
    for each in values:
        key, sign, value = each.partition("=")
        if not sign or not key:
            raise typer.BadParameter(f"{each!r} is not KEY=VALUE", param_hint=option)
        found[key] = value
    return found
