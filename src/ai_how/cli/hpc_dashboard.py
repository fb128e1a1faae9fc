"""`ai-how hpc dashboard`: the page of all clusters of the user, on a loopback address."""

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from ai_how import __version__, console
from ai_how.cli.cluster import Cluster, File, name_of, named
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import manager_of
from ai_how.errors import AiHowError, HostError, InterruptedRunError, StateError
from ai_how.extras import install_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from ai_how.dashboard.clusters import JournalEntry, Known, Line
    from ai_how.dashboard.metrics_own import NodeStart
    from ai_how.hpc.manager import HpcManager
    from ai_how.monitoring.live import Live

app = new_app()

LONGEST_MESSAGE = 2000
OPEN_S = 10.0
_EXTRA = ("starlette", "uvicorn", "wsproto", "h11")


@app.command(short_help="Show all clusters in a page of the browser, until Ctrl-C.")
def dashboard(
    ctx: typer.Context,
    file: File = None,
    cluster: Cluster = None,
    port: Annotated[
        int, typer.Option("--port", metavar="N", help="The port. Default: any free one.")
    ] = 0,
    address: Annotated[
        str, typer.Option("--address", metavar="ADDRESS", help="127.0.0.1 or ::1.")
    ] = "127.0.0.1",
    has_console: Annotated[
        bool,
        typer.Option("--console", help="Offer the serial consoles of nodes: root's shell there."),
    ] = False,
    opens: Annotated[
        bool, typer.Option("--open/--no-browser", help="Open the page in the browser.")
    ] = False,
) -> None:
    """Serve a page with all clusters of the user: nodes, jobs, time series, events and health.

    It listens on this host only, and answers nobody but its user and root, by the token in the
    address that is printed. From another machine: ssh -L PORT:127.0.0.1:PORT HOST, then open that
    address there. Ctrl-C ends it (exit code 130). With --json, the address is in a document on the
    first line.
    """
    try:
        from ai_how.dashboard.app import Settings
        from ai_how.dashboard.guard import Keys, Place
        from ai_how.dashboard.server import listen, serve
    except ModuleNotFoundError as error:
        if (missing := (error.name or "").partition(".")[0]) not in _EXTRA:
            raise
        raise HostError(
            f"{missing} is not installed, which the page needs",
            hint=install_command("dashboard"),
        ) from None
    context = context_of(ctx)
    first = _first(context, cluster, file)
    with listen(address, port) as line:
        keys, found = Keys(), line.getsockname()[1]
        url = f"http://{'[::1]' if ':' in address else '127.0.0.1'}:{found}/#token={keys.token}"
        url += f"&cluster={quote(first)}" if first else ""
        settings = Settings(
            place=Place(found), keys=keys, version=__version__, has_console=has_console
        )
        with _opener(context, url, is_asked=opens) as open_page:

            def tell() -> None:
                _show(url, found, is_json=context.is_json)
                open_page()

            serve(line, UserClusters(context), settings, tell)
    raise typer.Exit(InterruptedRunError.exit_code)


def _first(context: Context, cluster: str | None, file: Path | None) -> str | None:
    """The cluster that is shown first. Raises StateError if one was named that is not there."""
    is_named = bool(file or named(context, cluster, file))
    name = name_of(context, named(context, cluster, file), file)
    if context.roots.cluster(name).state.exists():
        return name
    if is_named:
        raise StateError(f"there is no cluster {name}", hint="ai-how hpc list")
    return None


def _show(url: str, port: int, *, is_json: bool) -> None:
    if is_json:
        console.note_json_lines()
        console.show_json({"url": url, "port": port, "pid": os.getpid()})
        return
    console.show_line(f"open this address in a browser: {url}")
    if os.environ.get("SSH_CONNECTION"):
        console.show_line(f"from your own machine first: ssh -L {port}:127.0.0.1:{port} HOST")
    console.show_line("Ctrl-C ends it")


@contextmanager
def _opener(context: Context, url: str, *, is_asked: bool) -> "Iterator[_Opener]":
    """What opens the page in the user's browser.

    Other users see the arguments of programs, so the browser gets a file, which leads on.
    """
    if not is_asked:
        yield _Opener(None, None)
        return
    from ai_how.process import get_tool
    from ai_how.state.paths import ensure_private_directory

    program = get_tool("xdg-open", package="xdg-utils")
    page = context.roots.state / f".page-{os.getpid()}.html"
    ensure_private_directory(page.parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(page, flags, 0o600), "w") as out:
            out.write(
                "<!doctype html><meta charset=utf-8><title>ai-how</title>"
                f'<meta http-equiv="refresh" content="0; url={url.replace("&", "&amp;")}">'
            )
        yield _Opener(program, page)
    finally:
        page.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Opener:
    program: Path | None
    page: Path | None

    def __call__(self) -> None:
        from ai_how.limits import start_thread

        if self.program:
            start_thread(self._open, name="browser")

    def _open(self) -> None:
        from ai_how.process import run

        try:
            run([self.program or "", self.page or ""], timeout_s=OPEN_S)
        except AiHowError as error:
            console.show_warning(f"no browser could be opened: {error.brief}")


@dataclass(slots=True)
class UserClusters:
    """The clusters of SLURM in the user's state directory (`dashboard.clusters.Clusters`)."""

    context: Context
    _read: "dict[str, tuple[tuple[int, ...], Known | None]]" = field(default_factory=dict)

    def known(self) -> "Sequence[Known]":
        """Those with a state that can be read. A state is read again only if its file is new."""
        roots = self.context.roots
        found: dict[str, tuple[tuple[int, ...], Known | None]] = {}
        for name in roots.cluster_names():
            with suppress(OSError):
                seen = roots.cluster(name).state.stat()
                sign = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
                before = self._read.get(name)
                is_same = before is not None and before[0] == sign
                found[name] = before if before and is_same else (sign, self._look(name))
        self._read = found
        return [one for _, one in found.values() if one]

    def connect(self, name: str) -> "Live":
        from ai_how.monitoring.live import connect

        return connect(self._manager(name))

    def starts(self, name: str) -> "Sequence[NodeStart]":
        from ai_how.cli.metrics_pages import starts_of

        return starts_of(self._manager(name))

    def journal(self, name: str, node: str, lines: int) -> "Sequence[JournalEntry]":
        from ai_how.clusters.named_nodes import get_named
        from ai_how.clusters.node_logs import read_logs
        from ai_how.dashboard.clusters import JournalEntry
        from ai_how.guest.journal import Wanted
        from ai_how.guest.serial_log import without_controls

        manager = self._manager(name)
        nodes = [get_named(manager.get_state(), node)]
        entries = read_logs(manager, nodes, Wanted(lines, None, (), 0), lambda _line: None)
        return [
            JournalEntry(
                at=one.time.timestamp() if one.time else None,
                identifier=without_controls(one.identifier or "")[:100] or None,
                priority=one.priority,
                message=without_controls(one.message)[:LONGEST_MESSAGE],
            )
            for one in entries
        ]

    def console(self, name: str, node: str) -> "AbstractContextManager[Line]":
        from ai_how.clusters.named_nodes import get_named

        manager = self._manager(name)
        return manager.console_of(get_named(manager.get_state(), node))

    def _look(self, name: str) -> "Known | None":
        from ai_how.dashboard.clusters import Known
        from ai_how.state.cluster_state import read_state
        from ai_how.state.models import HPC

        try:
            state = read_state(self.context.roots.cluster(name))
        except StateError:
            return None
        if state is None or state.kind != HPC:
            return None
        return Known(name, state.kind, tuple(one.name for one in state.nodes))

    def _manager(self, name: str) -> "HpcManager":
        return manager_of(self.context, name)
