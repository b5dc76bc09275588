"""`aiwm models`."""

from pathlib import Path
from typing import Annotated

import typer

from aiwm.cli.nouns import FileOption, Reference, Spec, documents_or, noun_app
from aiwm.cli.output import Column, Format, Output, age, say, show_json, show_rows, size
from aiwm.cli.progress import upload_meter
from aiwm.cli.session import run, signed_in
from aiwm.protocol.resources.models import Model, ModelFile
from aiwm.protocol.states import Framework, TaskType

SPEC: Spec[Model] = Spec(
    singular="model",
    plural="models",
    of=lambda client: client.models,
    columns=(
        Column("NAME", lambda model: model.name),
        Column("VERSION", lambda model: model.version),
        Column("STATUS", lambda model: model.download_status.value),
        Column("FRAMEWORK", lambda model: model.framework.value),
        Column("TASK", lambda model: model.task_type.value),
        Column("SIZE", lambda model: size(model.size)),
        Column("AGE", lambda model: age(model.created_at)),
        Column("ID", lambda model: model.model_id),
    ),
)
_FILE_COLUMNS: tuple[Column[ModelFile], ...] = (
    Column("PATH", lambda file: file.path),
    Column("SIZE", lambda file: size(file.size)),
    Column("SHA256", lambda file: file.sha256),
)

app = noun_app(SPEC)


@app.command()
def create(
    name: Annotated[str | None, typer.Argument(help="Its name.")] = None,
    file: FileOption = None,
    framework: Annotated[Framework | None, typer.Option(help="What its files are.")] = None,
    task: Annotated[TaskType | None, typer.Option(help="What it does.")] = None,
    version: Annotated[str | None, typer.Option(help="The model's own version; 1 when not given.")] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    huggingface_repo: Annotated[str | None, typer.Option(help="OWNER/NAME to download it from.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Register a model. Its files come with `aiwm models push`."""
    fields: dict[str, object] = {
        "framework": framework and framework.value,
        "taskType": task and task.value,
        "version": version,
        "description": description,
        "huggingfaceRepo": huggingface_repo,
    }
    documents = documents_or(file, name, fields)

    async def work() -> None:
        async with signed_in() as client:
            SPEC.show(await SPEC.created(client, documents), output)

    run(work())


@app.command()
def push(
    reference: Reference,
    source: Annotated[Path, typer.Argument(exists=True, readable=True, help="A folder or a file.")],
    unpack: Annotated[bool, typer.Option(help="SOURCE is an archive that the server unpacks.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until every file is verified.")] = True,
    output: Output = Format.TABLE,
) -> None:
    """Upload a model's files."""

    async def work() -> None:
        async with signed_in() as client:
            model_id = await client.models.resolve(reference)
            with upload_meter() as meter:
                model = await client.models.upload(model_id, source, unpack=unpack, on_progress=meter)
            if wait:
                say("verifying")
                model = await client.models.wait_ready(model_id)
            SPEC.show([model], output)

    run(work())


@app.command()
def files(reference: Reference, output: Output = Format.TABLE) -> None:
    """List a model's files with their hashes."""

    async def work() -> None:
        async with signed_in() as client:
            found = await client.models.files(await client.models.resolve(reference))
        if output is Format.TABLE:
            show_rows(found, _FILE_COLUMNS)
        else:
            show_json([each.to_wire() for each in found], output)

    run(work())
