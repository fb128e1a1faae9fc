"""The verbs by name, and the global options. The module of a verb is loaded when it is called."""

import importlib
import shutil
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
    "validate": "Check the cluster file, and whether the host can run the cluster.",
    "hpc": "Start, stop, inspect and use the SLURM cluster.",
    "cloud": "Start, stop, inspect and use the Kubernetes cluster.",
    "list": "List all clusters of the user, of every kind.",
    "status": "Show the state of each cluster that the file has.",
    "image": "Build and manage the images of the nodes.",
    "cache": "Take images and saved VMs to another machine, in one file.",
    "host": "Start, stop and inspect the embedded host.",
    "gpu": "List and explain the GPUs of the host; move one to another node.",
    "doctor": "Check the host; print a command for each problem.",
    "schema": "Print the JSON Schema of the cluster file, for editors.",
}

_NARROWEST_OF_CLICK, _NARROWEST = 50, 30

_HELP = """\
Build a virtual SLURM cluster from one YAML file, or from none; or a Kubernetes cluster from one.

`ai-how hpc start` returns when SLURM has run a job on every compute node, `ai-how cloud start` when
Kubernetes has every node. The options below may be given anywhere before `--`.
"""


class _Verbs(UserDict[str, Any]):
    """The verbs by name, each loaded on first use."""

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
    """Takes the help from `VERBS`; loads only the verb that is called."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  Typer's own
        super().__init__(**attributes)
        self.commands = _Verbs()

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002  the type is Typer's own
        return list(VERBS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


app = new_app(_HELP, cls=LazyGroup, completes=True)


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
            help="The cluster file. Default: ./cluster.yaml, else a built-in file.",
        ),
    ] = None,
    connect: Annotated[
        str | None,
        typer.Option(
            "--connect",
            envvar="AI_HOW_CONNECT",
            metavar="URI",
            help="Where the VMs run: auto, embedded, qemu:///system, … Default: as in the file.",
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir",
            metavar="DIR",
            help="The directory for the state of clusters. Default: ~/.local/state/ai-how.",
        ),
    ] = None,
    is_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout, also for errors.")
    ] = False,
    verbosity: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, show_default=False, help="Log more; -vv logs all."
        ),
    ] = 0,
    log_file: Annotated[
        Path | None,
        typer.Option("--log-file", metavar="PATH", help="Append a full log to a file."),
    ] = None,
    version: Annotated[  # noqa: ARG001  its callback answers
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Keep the global options for the verb."""
    from ai_how.console.logs import start_logging

    start_logging(verbosity, log_file)
    if connect not in (None, "auto", "embedded"):
        from ai_how.libvirt_client.uri import read_uri

        read_uri(connect)
    ctx.obj = Context(config, connect, state_dir, is_json, verbosity, log_file)


def run(words: Sequence[str]) -> int:
    """Run one command line. Returns the exit code of the verb."""
    command = typer.main.get_command(app)
    code = command.main(
        args=list(words),
        prog_name="ai-how",
        standalone_mode=False,
        terminal_width=_width_of_help(),
    )
    return code if isinstance(code, int) else 0


def _width_of_help() -> int | None:
    """The width of a help text where a terminal is narrower than the 50 that it has at least."""
    columns = shutil.get_terminal_size().columns
    return max(columns, _NARROWEST) - 2 if columns < _NARROWEST_OF_CLICK + 2 else None
