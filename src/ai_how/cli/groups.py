"""How the verbs of one module are made into commands."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from ai_how import console
from ai_how.errors import SpecError

_WRONG_USAGE = 2


def _has_json(_words: Sequence[str]) -> str:
    return ""


# What has no JSON, and what to do then; an empty answer means that it has.
_NO_JSON: Mapping[str, Callable[[Sequence[str]], str]] = {
    "hpc ssh": lambda _: "ai-how --json hpc exec NODE CMD  # or without --json",
    "hpc console": lambda _: "ai-how hpc console NODE  # without --json",
    "hpc logs": lambda _: "ai-how hpc logs NODE  # without --json",
    "hpc ssh-config": lambda _: "ai-how hpc ssh-config  # without --json",
    "hpc status": lambda words: "ai-how --json hpc status" if "--watch" in words else "",
    "hpc destroy": lambda words: "" if "--force" in words else "ai-how --json hpc destroy --force",
    "host connect": lambda _: "ai-how --json host status",
}


class Group(TyperGroup):
    """A group of verbs; without one it shows its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  Typer's own type
        if not args:
            console.show_text(ctx.get_help(), to_stderr=True)
            ctx.exit(_WRONG_USAGE)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:  # noqa: ANN401
        """The verb. Raises SpecError where JSON is asked for of one that says none."""
        name, command, rest = super().resolve_command(ctx, args)
        if getattr(ctx.obj, "is_json", False) and not {"--help", "-h"}.intersection(rest):
            path = f"{ctx.info_name} {name}"
            if hint := _NO_JSON.get(path, _has_json)(rest):
                asked = " --watch" if "--watch" in rest else ""
                raise SpecError(f"{path}{asked} has no JSON", hint=hint)
        return name, command, rest


def new_app(about: str | None = None, *, cls: type[TyperGroup] = Group) -> typer.Typer:
    """A Typer for one module: without rich, which is slow to load."""
    return typer.Typer(
        cls=cls,
        help=about,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=cls is not Group,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
