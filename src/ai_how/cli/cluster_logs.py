"""`logs`: the journals of nodes, or their serial consoles."""

from contextlib import closing, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, Words, find_manager, split_words
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.stopping import Stopped
from ai_how.errors import InterruptedRunError, SpecError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from ai_how.clusters.manager import ClusterManager
    from ai_how.guest.journal import LogEntry, Wanted
    from ai_how.state.models import NodeState

app = new_app()

Follow = Annotated[
    bool, typer.Option("--follow", "-f", help="Show new lines as they come, until Ctrl-C.")
]
Lines = Annotated[
    int | None,
    typer.Option(
        "--lines",
        "-n",
        "--tail",
        metavar="N",
        min=0,
        help="The last N lines of each node. Default: 200; with -f 10; with --since all.",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", "-S", metavar="TIME", help="Lines since then: 10m, 2h, today, 12:00, …"
    ),
]
Units = Annotated[
    list[str] | None,
    typer.Option("--unit", "-u", metavar="UNIT", help="Lines of a unit, such as {unit}."),
]
Serial = Annotated[bool, typer.Option("--serial", help="Show the serial console, of all boots.")]
Boot = Annotated[
    int | None,
    typer.Option(
        "--boot", "-b", metavar="N", max=0, help="The boot: 0 is current, -1 the previous."
    ),
]

LINES, LINES_OF_FOLLOWED = 200, 10


@app.command(short_help="Show or follow the journals of nodes, or their serial consoles.")
def logs(
    ctx: typer.Context,
    words: Words = None,
    cluster: Cluster = None,
    follow: Follow = False,
    lines: Lines = None,
    since: Since = None,
    unit: Units = None,
    serial: Serial = False,
    boot: Boot = None,
) -> None:
    """Show the journals of nodes, by default of all, in the order of time; -f follows them.

    Times are in the zone of this host. --since takes what journalctl, docker and kubectl take:
    10m, 2h30m, -1h, "10 min ago", today, yesterday, 12:00, "2026-11-30 12:00". Without it, the
    lines are those of the current boot.

    With -f, a node that reboots, is suspended or off is waited for: a line on stderr says so, and
    its journal goes on where it was. Ctrl-C ends it (exit code 130), and so does a reader that
    ends, such as head (exit code 0).

    If the guest agent of a single node does not answer, its serial console is shown. With --json,
    each line is a JSON document.
    """
    from ai_how.clusters.named_nodes import get_named
    from ai_how.guest.since import read_since

    context = context_of(ctx)
    if context.is_json:
        console.note_json_lines()
    if serial and (since or unit or boot is not None):
        raise SpecError(
            "a serial console has no times, units and boots",
            hint=f"ai-how {context.kind.name} logs --help",
        )
    if follow and boot:
        hint = f"ai-how {context.kind.name} logs --help"
        raise SpecError("nothing is added to a former boot", hint=hint)
    start = read_since(since, datetime.now().astimezone()) if since else None
    file, names = split_words(words)
    manager = find_manager(context, cluster, file)
    state = manager.get_state()
    nodes = list({one.uuid: one for one in (get_named(state, name) for name in names)}.values())
    nodes = nodes or list(state.nodes)
    if lines is None and start is None:
        lines = LINES_OF_FOLLOWED if follow else LINES
    from ai_how.guest.journal import Wanted

    wanted = Wanted(lines, start, unit or (), 0 if boot is None and start is None else boot)
    with _ended_quietly(is_followed=follow):
        entries = _entries(manager, nodes, wanted, follows=follow, serial=serial)
        _show(entries, nodes, is_json=context.is_json)


def _entries(
    manager: "ClusterManager",
    nodes: "Sequence[NodeState]",
    wanted: "Wanted",
    *,
    follows: bool,
    serial: bool,
) -> "Generator[LogEntry | None]":
    """What is shown; None where nothing comes for a moment."""
    from ai_how.clusters.node_logs import follow_logs, read_logs, serial_logs

    if not (serial or follows) and len(nodes) == 1 and not (wanted.since or wanted.units):
        serial = not _answers(manager, nodes[0])
        if serial:
            console.show_warning(
                f"the guest agent of {nodes[0].name} does not answer; this is its serial log"
            )
    if serial:
        yield from serial_logs(manager, nodes, wanted.lines, follows=follows)
    elif follows:
        yield from follow_logs(manager, nodes, wanted, console.show_note)
    else:
        yield from read_logs(manager, nodes, wanted, console.show_note)


def _answers(manager: "ClusterManager", node: "NodeState") -> bool:
    from ai_how.clusters.cluster_access import client_of

    place = manager.place()
    if not place.is_up:
        return False
    with client_of(place) as client:
        return client.is_agent_connected(node.uuid)


def _show(
    entries: "Generator[LogEntry | None]", nodes: "Sequence[NodeState]", *, is_json: bool
) -> None:
    """Print the entries until there are no more, or nobody reads them."""
    numbers = {node.name: number for number, node in enumerate(nodes)}
    width = max(map(len, numbers))
    with closing(entries):
        for entry in entries:
            if entry is None:
                if not console.pause(0.1):
                    return
            elif is_json:
                console.show_json(_document(entry))
            else:
                for line in entry_lines(entry, is_alone=len(nodes) == 1):
                    label = "" if len(nodes) == 1 else f"{entry.node:<{width}}"
                    console.show_log_line(label, line, number=numbers[entry.node])
            if not console.has_reader():
                return


def entry_lines(entry: "LogEntry", *, is_alone: bool) -> "Iterator[str]":
    """The entry as journalctl shows it; the further lines of a message are indented."""
    from ai_how.guest.serial_log import without_controls

    head = ""
    if entry.time:
        head = f"{entry.time.astimezone():%b %d %H:%M:%S} {f'{entry.node} ' if is_alone else ''}"
        head += without_controls(entry.identifier or "unknown")
        head += ": " if entry.pid is None else f"[{entry.pid}]: "
    for number, line in enumerate(without_controls(entry.message).split("\n")):
        yield f"{' ' * len(head) if number else head}{line}"


def _document(entry: "LogEntry") -> dict[str, object]:
    return {
        "node": entry.node,
        "time": entry.time.astimezone() if entry.time else None,
        "identifier": entry.identifier,
        "pid": entry.pid,
        "unit": entry.unit,
        "priority": entry.priority,
        "message": entry.message,
        "cursor": entry.cursor,
    }


@contextmanager
def _ended_quietly(*, is_followed: bool) -> "Iterator[None]":
    """Where lines are followed, Ctrl-C is the ordinary end: without a word."""
    try:
        yield
    except Stopped:
        if not is_followed:
            raise
        raise typer.Exit(InterruptedRunError.exit_code) from None
