"""Typer groups for the verbs of one module."""

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from ai_how import console
from ai_how.errors import SpecError

_WRONG_USAGE = 2


def _check_json(verb: str, words: Sequence[str]) -> None:
    """Raises SpecError, with a hint, for a verb that has no JSON output."""
    match verb:
        case "hpc ssh":
            hint = "ai-how hpc exec --json NODE CMD  # or without --json"
        case "hpc cp" | "hpc rsync":
            hint = f"ai-how {verb} SRC DST  # without --json"
        case "hpc console":
            hint = "ai-how hpc console NODE  # without --json"
        case "hpc ssh-config":
            hint = "ai-how hpc ssh-config  # without --json"
        case "hpc inventory" if "--yaml" in words:
            verb = f"{verb} --yaml"
            hint = "ai-how hpc inventory --list"
        case "hpc status" if "--watch" in words:
            verb = f"{verb} --watch"
            hint = "ai-how hpc status --json"
        case "host connect":
            hint = "ai-how host status --json"
        case _:
            return
    raise SpecError(f"{verb} has no JSON", hint=hint)


class Group(TyperGroup):
    """A group of verbs; without a verb it prints its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  Typer's own type
        if not args and not ctx.resilient_parsing:  # which is completion by a shell
            console.show_text(ctx.get_help(), to_stderr=True)
            ctx.exit(_WRONG_USAGE)
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """The verb; in its help an argument has its name alone, without Typer's `<list[str]>`."""
        command = super().get_command(ctx, cmd_name)
        for one in getattr(command, "params", ()):
            if one.param_type_name == "argument":
                one.display_type_rich = lambda **_: ""
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:  # noqa: ANN401
        """The verb. Raises SpecError for --json with a verb that has no JSON output."""
        name, command, rest = super().resolve_command(ctx, args)
        if getattr(ctx.obj, "is_json", False) and not {"--help", "-h"}.intersection(rest):
            _check_json(f"{ctx.info_name} {name}", rest)
        return name, command, rest


def new_app(about: str | None = None, *, cls: type[TyperGroup] = Group) -> typer.Typer:
    """The Typer app of one module, without rich, which is slow to load."""
    return typer.Typer(
        cls=cls,
        help=about,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=cls is not Group,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
