"""Verbs by name and the global options; a verb's module is loaded when it is called."""

import importlib
from collections import UserDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ai_how import __version__, console
from ai_how.cli.context import Context
from ai_how.cli.groups import Group, new_app

# Each verb is `app` of the module of its name.
VERBS = {
    "init": "Write a commented cluster.yaml.",
    "validate": "Check the cluster file, what it costs, and whether the host can.",
    "hpc": "Start, stop, show and enter the SLURM cluster.",
    "image": "Build and manage what the nodes boot.",
    "host": "Start, stop and show the embedded host.",
    "doctor": "Check everything that the host needs, with what to do about it.",
    "schema": "Print the JSON Schema of the cluster file, for editors.",
}

_HELP = """\
A virtual SLURM cluster from one YAML file (or none).

`ai-how hpc start` ends when a job has run on every compute node. The options below may stand
anywhere before `--`.
"""


class _Verbs(UserDict[str, Any]):
    """Verbs by name, each made when it is first asked for."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  the type is Typer's own
        if name not in self.data:
            if name not in VERBS:
                raise KeyError(name)
            module = importlib.import_module(f"ai_how.cli.{name}")
            self.data[name] = typer.main.get_command(module.app)
        return self.data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)

    def __contains__(self, name: object) -> bool:
        return name in VERBS


class LazyGroup(Group):
    """Help comes from the table above; only the verb that is called is loaded."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  Typer's own
        super().__init__(**attributes)
        self.commands = _Verbs()

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002  the type is Typer's own
        return list(VERBS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


app = new_app(_HELP, cls=LazyGroup)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        console.show_text(f"ai-how {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar="AI_HOW_CONFIG",
            metavar="PATH",
            help="The cluster file. Default: ./cluster.yaml, else a built-in one.",
        ),
    ] = None,
    connect: Annotated[
        str | None,
        typer.Option(
            "--connect",
            envvar="AI_HOW_CONNECT",
            metavar="URI",
            help="Where the VMs run: auto, embedded, qemu:///system, … Default: as the file says.",
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir",
            metavar="DIR",
            help="Where clusters are remembered. Default: ~/.local/state/ai-how.",
        ),
    ] = None,
    is_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, also for errors.")
    ] = False,
    verbosity: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, show_default=False, help="Say more; -vv says all."
        ),
    ] = 0,
    log_file: Annotated[
        Path | None,
        typer.Option("--log-file", metavar="PATH", help="Append all that is done to a file."),
    ] = None,
    version: Annotated[  # noqa: ARG001  its callback answers
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Hold the global options for the verb."""
    from ai_how.console.logs import start_logging

    start_logging(verbosity, log_file)
    if connect not in (None, "auto", "embedded"):
        from ai_how.libvirt_client.uri import read_uri

        read_uri(connect)
    ctx.obj = Context(config, connect, state_dir, is_json, verbosity, log_file)


def run(words: Sequence[str]) -> int:
    """Run one command line; the exit code is the verb's."""
    command = typer.main.get_command(app)
    code = command.main(args=list(words), prog_name="ai-how", standalone_mode=False)
    return code if isinstance(code, int) else 0
