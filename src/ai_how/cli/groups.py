"""Typer groups for the verbs of one module."""

from collections.abc import Sequence
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from ai_how import console
from ai_how.cli.kinds import KINDS, Kind
from ai_how.errors import SpecError

_WRONG_USAGE = 2


def _check_json(verb: str, words: Sequence[str]) -> None:
    """Raises SpecError, with a hint, for a verb that has no JSON output."""
    group, _, name = verb.partition(" ")
    match name:
        case "ssh" if group in KINDS:
            hint = f"ai-how {group} exec --json NODE CMD  # or without --json"
        case "cp" | "rsync" if group in KINDS:
            hint = f"ai-how {verb} SRC DST  # without --json"
        case "console" if group in KINDS:
            hint = f"ai-how {group} console NODE  # without --json"
        case "ssh-config" if group in KINDS:
            hint = f"ai-how {group} ssh-config  # without --json"
        case "kubeconfig" if group in KINDS and "--stdout" in words:
            verb = f"{verb} --stdout"
            hint = f"ai-how {group} kubeconfig --json"
        case "inventory" if group in KINDS and "--yaml" in words:
            verb = f"{verb} --yaml"
            hint = f"ai-how {group} inventory --list"
        case "status" if group in KINDS and "--watch" in words:
            verb = f"{verb} --watch"
            hint = f"ai-how {group} status --json"
        case "connect" if group == "host":
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


class KindGroup(Group):
    """The verbs of one kind of cluster: they act on clusters of it, and their help has its words.

    Its verbs are made anew from their functions, so none of them is also in another group.
    """

    kind: ClassVar[Kind]

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  Typer's own
        super().__init__(**attributes)
        for command in self.commands.values():
            command.help = self.kind.fill(command.help)
            command.short_help = self.kind.fill(command.short_help)
            for one in command.params:
                if hasattr(one, "help"):
                    one.help = self.kind.fill(one.help)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  Typer's own type
        ctx.obj = ctx.obj.of(self.kind)
        return super().invoke(ctx)


def new_app(
    about: str | None = None, *, cls: type[TyperGroup] = Group, completes: bool = False
) -> typer.Typer:
    """The Typer app of one module, without rich, which is slow to load."""
    return typer.Typer(
        cls=cls,
        help=about,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=completes,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
