"""How the verbs of one module are made into commands."""

from typing import Any

import typer
from typer.core import TyperGroup

from ai_how import console

_WRONG_USAGE = 2


class Group(TyperGroup):
    """A group of verbs; without one it shows its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  Typer's own type
        if not args:
            console.show_text(ctx.get_help(), to_stderr=True)
            ctx.exit(_WRONG_USAGE)
        return super().parse_args(ctx, args)


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
