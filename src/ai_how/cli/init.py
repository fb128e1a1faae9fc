"""`ai-how init`: a commented cluster file as a starting point."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ai_how import console
from ai_how.cli.context import DEFAULT_FILE, context_of
from ai_how.cli.groups import new_app
from ai_how.errors import SpecError

app = new_app()


@app.command()
def init(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The file to write.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented cluster file with every field; it has the same effect as no file."""
    context = context_of(ctx)
    path = file or context.config or DEFAULT_FILE
    _write(path, is_replacing=force)
    if context.is_json:
        console.show_json({"written": path})
    else:
        console.show_line(f"wrote {path}; check it: ai-how validate {shlex.quote(str(path))}")


def _write(path: Path, *, is_replacing: bool) -> None:
    from ai_how.spec.document import render_default_file

    text = render_default_file()
    if path.is_dir():
        hint = f"ai-how init {shlex.quote(str(path / DEFAULT_FILE))}"
        raise SpecError(f"{path} is a directory", hint=hint)
    try:
        with path.open("w" if is_replacing else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        hint = f"ai-how init {shlex.quote(str(path))} --force"
        raise SpecError(f"{path} exists", hint=hint) from None
    except OSError as error:
        raise SpecError(f"cannot write {path}: {error.strerror}") from None
