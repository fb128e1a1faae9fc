"""The verb that prints and serves the metrics of a cluster, and what Prometheus needs for it."""

import re
import shlex
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, File
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import find_manager
from ai_how.cli.stopping import Stopped
from ai_how.errors import HostError, SpecError
from ai_how.extras import install_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_how.dashboard.metrics_server import Readers
    from ai_how.host.ports import WayIn
    from ai_how.hpc.manager import HpcManager

app = new_app()

DEFAULT_PORT = 9717
_PLACE = re.compile(r"(?:(?:\[(?P<six>[^\]]+)\]|(?P<four>[^:\[\]]+)):)?(?P<port>\d{1,5})")
_HIGHEST = 65535
_SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 4096


Serve = Annotated[
    str | None,
    typer.Option(
        "--serve",
        metavar="[ADDRESS:]PORT",
        help="Serve /metrics there until Ctrl-C; without an address on 127.0.0.1. "
        "Port 0 is any free one.",
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Allow an ADDRESS that other hosts reach.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="PATH",
        help="Only who sends the token in this file as bearer token may read.",
    ),
]
Targets = Annotated[
    Path | None,
    typer.Option(
        "--targets",
        metavar="DIR",
        help="Write what Prometheus is to scrape there, for its file_sd_configs; - prints it.",
    ),
]
Rules = Annotated[
    Path | None,
    typer.Option("--rules", metavar="DIR", help="Copy the alert rules for Prometheus there."),
]
Dashboards = Annotated[
    Path | None,
    typer.Option("--dashboards", metavar="DIR", help="Copy the dashboards for Grafana there."),
]
Openmetrics = Annotated[
    bool, typer.Option("--openmetrics", help="Print OpenMetrics, not Prometheus text.")
]


@app.command(short_help="Print the cluster's metrics, or serve them to Prometheus.")
def metrics(
    ctx: typer.Context,
    file: File = None,
    cluster: Cluster = None,
    serve: Serve = None,
    is_open: Open = False,
    token_file: TokenFile = None,
    targets: Targets = None,
    rules: Rules = None,
    dashboards: Dashboards = None,
    openmetrics: Openmetrics = False,
) -> None:
    """Print what is seen of the cluster now as Prometheus text, or serve it (--serve).

    The nodes' own exporters are served as well, at /metrics/nodes/NODE, since on the embedded host
    only ai-how is in their network. Who serves needs no root.
    """
    require_extra()
    context = context_of(ctx)
    if rules or dashboards:
        _copy(rules, dashboards, is_json=context.is_json)
        if not (serve or targets):
            return
    if (is_open or token_file) and serve is None:
        raise SpecError("--open and --token-file need --serve", hint="ai-how hpc metrics --help")
    manager = find_manager(context, cluster, file)
    if serve is not None:
        address, port = place_in(serve, is_open=is_open)
        readers = _readers(address, token_file)
        is_json = context.is_json
        with (
            suppress(Stopped),  # by Ctrl-C: its ordinary end
            _listening(manager, address, port, readers, targets, is_json=is_json),
        ):
            threading.Event().wait()
        return
    if targets is not None:
        _write_targets(manager, f"127.0.0.1:{DEFAULT_PORT}", targets)
        return
    _print(manager, is_json=context.is_json, openmetrics=openmetrics)


def require_extra() -> None:
    """Raises HostError with the command that installs what the metrics need."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise HostError(
            "the metrics need the extra `dashboard`", hint=install_command("dashboard")
        ) from None


def place_in(word: str, *, is_open: bool) -> tuple[str, int]:
    """The address and port of `[ADDRESS:]PORT`. Raises SpecError."""
    from ipaddress import ip_address

    from ai_how.host.ports import is_loopback, place_of

    found = _PLACE.fullmatch(word)
    if found is None or int(found["port"]) > _HIGHEST:
        raise SpecError(f"{word} is no [ADDRESS:]PORT, such as {DEFAULT_PORT}")
    asked = found["six"] or found["four"] or "127.0.0.1"
    try:
        address = str(ip_address("127.0.0.1" if asked == "localhost" else asked))
    except ValueError:
        raise SpecError(f"{asked} is no address") from None
    port = int(found["port"])
    if not is_loopback(address) and not is_open:
        raise SpecError(
            f"other hosts reach {address}, and could read the metrics",
            details="They go over the network as plain text, also with a token.",
            hint=f"ai-how hpc metrics --serve {place_of(address, port)} --open",
        )
    return address, port


def _readers(address: str, token_file: Path | None) -> "Readers":
    from ai_how.dashboard.metrics_server import Readers
    from ai_how.host.ports import is_loopback

    token = read_token(token_file) if token_file else None
    bare = f"[{address}]" if ":" in address else address
    names = frozenset({"127.0.0.1", "localhost", "[::1]", bare})
    return Readers(token=token, hosts=names if is_loopback(address) else None)


def read_token(path: Path) -> str:
    """The token in the first line of a file of its user. Raises SpecError."""
    try:
        with path.open("rb") as opened:
            mode = path.stat().st_mode
            first = opened.readline(_LONGEST_TOKEN).strip()
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise SpecError(f"others can read {path}", hint=f"chmod 600 {shlex.quote(str(path))}")
    if len(first) < _SHORTEST_TOKEN or not first.isascii() or not first.decode().isprintable():
        raise SpecError(
            f"the first line of {path} is no token of {_SHORTEST_TOKEN} letters or more",
            hint=f"openssl rand -hex 32 > {shlex.quote(str(path))}",
        )
    return first.decode()


@contextmanager
def _listening(
    manager: "HpcManager",
    address: str,
    port: int,
    readers: "Readers",
    targets: Path | None,
    *,
    is_json: bool,
) -> "Iterator[None]":
    """Serve while the block runs, which begins when it answers."""
    from ai_how.cli.metrics_pages import ClusterPages
    from ai_how.dashboard.metrics_server import MetricsServer
    from ai_how.host.dialing import Dialer
    from ai_how.host.ports import is_loopback, listen, place_of
    from ai_how.limits import start_thread
    from ai_how.monitoring.live import connect

    def find_way() -> "WayIn | None":
        place = manager.place()
        return place.way_in() if place.is_up else None

    manager.get_state()
    with (
        listen(address, port) as line,
        closing(Dialer(find_way)) as dialer,
        closing(connect(manager)) as live,
    ):
        server = MetricsServer(line, ClusterPages(manager, live, dialer), readers)
        serving = start_thread(server.serve_forever, name="metrics")
        try:
            place = place_of(address, line.getsockname()[1])
            if targets is not None:
                _write_targets(manager, place, targets)
            if not is_loopback(address):
                whose = ", if it has the token" if readers.token else ""
                console.show_warning(
                    f"every host that reaches {address} can read the metrics{whose}"
                )
            url = f"http://{place}/metrics"
            if is_json:
                console.show_json({"url": url})
            else:
                console.show_line(f"serving: {url}")
            yield
        finally:
            server.shutdown()
            serving.join()


def _write_targets(manager: "HpcManager", endpoint: str, directory: Path) -> None:
    from ai_how.cli.metrics_pages import scraped_nodes
    from ai_how.dashboard.metrics_targets import render_targets
    from ai_how.state.files import replaced_atomically

    text = render_targets(manager.name, endpoint, scraped_nodes(manager))
    if str(directory) == "-":
        console.show_text(text)
        return
    path = directory / f"ai-how-{manager.name}.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with replaced_atomically(path, mode=0o644) as draft:  # Prometheus may be another user
            draft.write_text(text)
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}") from None


def _copy(rules: Path | None, dashboards: Path | None, *, is_json: bool) -> None:
    from ai_how.dashboard.metrics_files import DASHBOARDS, RULES, copy_files

    written = copy_files((RULES,), rules) if rules else []
    written += copy_files(DASHBOARDS, dashboards) if dashboards else []
    if is_json:
        console.show_json({"files": [str(one) for one in written]})
    else:
        for one in written:
            console.show_line(str(one))


def _print(manager: "HpcManager", *, is_json: bool, openmetrics: bool) -> None:
    from ai_how.cli.metrics_pages import starts_of
    from ai_how.dashboard.metrics import Seen, make_page, render_metrics
    from ai_how.monitoring.once import look_once

    seen = [Seen(snapshot=look_once(manager), starts=starts_of(manager))]
    if is_json:
        samples = [
            {"name": one.name, "labels": one.labels, "value": one.value}
            for family in make_page(seen, now=time.time()).collect()
            for one in family.samples
        ]
        console.show_json({"metrics": samples})
        return
    accept = "application/openmetrics-text" if openmetrics else ""
    page, _ = render_metrics(seen, now=time.time(), accept=accept)
    console.pass_on(page)
