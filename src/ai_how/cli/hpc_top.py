"""`ai-how hpc top`: the full-screen view of a cluster."""

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, TextIO, cast

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, File, named
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import find_manager
from ai_how.console.streams import DUMB
from ai_how.errors import HostError, InterruptedRunError, SpecError
from ai_how.extras import install_command

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from ai_how.hpc.manager import HpcManager
    from ai_how.hpc.operations import Operations
    from ai_how.monitoring.live import Live
    from ai_how.monitoring.model import Job

app = new_app()

# Of terminals that show bold and reversed text, and no colours.
_WITHOUT_COLOURS = ("vt1", "vt2", "vt3", "vt4", "vt5")
_LINES = 500


@app.command(short_help="Show nodes, jobs and what is wrong on the full screen, live.")
def top(
    ctx: typer.Context,
    file: File = None,
    cluster: Cluster = None,
    no_mouse: Annotated[
        bool, typer.Option("--no-mouse", help="Leave the mouse to the terminal.")
    ] = False,
) -> None:
    """Show nodes, jobs and what is wrong on the full screen, live.

    Enter opens a node (its journal, serial line, details) or a job (its output, script, details).
    x cancels a job, h holds and u releases it; d drains a node and u resumes it. Each asks before.
    ? shows all keys, q quits.

    A figure with a ? is old, as its source is silent; - is not known. With --json, what is seen
    now is printed once.
    """
    context = context_of(ctx)
    if context.is_json:
        _print_once(find_manager(context, cluster, file))
        return
    check_terminal()
    check_extra()
    from ai_how.top.run import show_top

    source = ClusterSource(lambda: find_manager(context, cluster, file))
    was_interrupted = show_top(
        source,
        named(context, cluster, file) or _title(context, file),
        cast("TextIO", sys.stderr),
        is_plain=not has_colours(os.environ),
        is_ascii=not has_unicode(os.environ),
        has_mouse=not no_mouse,
    )
    if was_interrupted:
        raise typer.Exit(InterruptedRunError.exit_code)


def check_terminal() -> None:
    """Raises SpecError if there is no terminal that shows a full screen."""
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise SpecError("hpc top needs a terminal", hint="ai-how hpc status")
    if (kind := os.environ.get("TERM", "")) in DUMB:
        raise SpecError(
            f"hpc top cannot draw on this terminal (TERM={kind})", hint="ai-how hpc status --watch"
        )


def check_extra() -> None:
    """Raises HostError if the library of the view is not installed."""
    if find_spec("textual") is None:
        raise HostError(
            "hpc top needs Textual, which is not installed", hint=install_command("top")
        )


def has_colours(environ: "os._Environ[str] | dict[str, str]") -> bool:
    """Whether the terminal has colours, and its user wants them (no-color.org)."""
    return not environ.get("NO_COLOR") and not environ.get("TERM", "").startswith(_WITHOUT_COLOURS)


def has_unicode(environ: "os._Environ[str] | dict[str, str]") -> bool:
    """Whether the terminal is said to show more than ASCII.

    Where the locale is C, Python sets LC_CTYPE for itself (PEP 538); that says nothing of the
    terminal.
    """
    language = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or "C"
    if language == "C.UTF-8" and not environ.get("LC_ALL"):
        language = environ.get("LANG") or "C"
    return "utf" in language.lower().replace("-", "")


@dataclass(frozen=True, slots=True)
class ClusterSource:
    """The cluster that the command line names."""

    find: "Callable[[], HpcManager]"

    def open(self) -> "tuple[Live, ClusterActions]":
        from ai_how.hpc.operations import Operations
        from ai_how.monitoring.live import connect

        manager = self.find()
        manager.get_state()
        return connect(manager), ClusterActions(manager, Operations(manager))

    def completed(self, text: str) -> str:
        return console.completed(text)


@dataclass(frozen=True, slots=True)
class ClusterActions:
    """What the view shows and does, by what the other verbs show and do it."""

    manager: "HpcManager"
    operations: "Operations"

    def journal(self, node: str) -> "Generator[str | None]":
        """The journal of the current boot, and what is added."""
        from ai_how.cli.cluster_logs import entry_lines
        from ai_how.clusters.named_nodes import get_named
        from ai_how.clusters.node_logs import follow_logs
        from ai_how.guest.journal import Wanted

        notes: list[str] = []
        state = get_named(self.manager.get_state(), node)
        for entry in follow_logs(self.manager, [state], Wanted(_LINES, boot=0), notes.append):
            while notes:
                yield f"-- {notes.pop(0)} --"
            if entry is None:
                yield None
            else:
                yield from entry_lines(entry, is_alone=False)

    def serial(self, node: str) -> "Generator[str | None]":
        """The end of the serial log, and what is added."""
        from ai_how.clusters.named_nodes import get_named
        from ai_how.clusters.node_logs import serial_logs

        state = get_named(self.manager.get_state(), node)
        for entry in serial_logs(self.manager, [state], _LINES, follows=True):
            yield entry.message if entry else None

    def script(self, job: "Job") -> "Generator[str | None]":
        return self.operations.script(job)

    def output(self, job: "Job") -> "Generator[str | None]":
        return self.operations.output(job)

    def cancel(self, job: "Job") -> None:
        self.operations.cancel(job)

    def hold(self, job: "Job") -> None:
        self.operations.hold(job)

    def release(self, job: "Job") -> None:
        self.operations.release(job)

    def drain(self, node: str, reason: str) -> None:
        self.operations.drain(node, reason)

    def resume(self, node: str) -> None:
        self.operations.resume(node)


def _title(context: Context, file: "Path | None") -> str:
    """What stands above the view before anything is known: the file is not read yet."""
    path = context.find_spec_path(file)
    return str(path) if path else "hpc"


def _print_once(manager: "HpcManager") -> None:
    from ai_how.monitoring.live import connect

    live = connect(manager)
    try:
        console.show_json(live.snapshot())
    finally:
        live.close()
