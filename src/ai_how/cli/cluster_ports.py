"""The verb that passes ports of this host on to ports of nodes."""

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, find_manager, split_words
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.stopping import Stopped
from ai_how.errors import HostError, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_how.host.place import HypervisorHost
    from ai_how.host.ports import Port, WayIn
    from ai_how.state.models import ClusterState

app = new_app()

_WORD = re.compile(
    r"(?:(?:\[(?P<six>[^\]]+)\]|(?P<four>[^:\[\]]+)):)?(?P<here>\d{1,5}):(?P<node>[^:]+):(?P<there>\d{1,5})"
)
_FORM = "[ADDRESS:]PORT:NODE:PORT was expected, such as 8888:{login}:8888"
_HIGHEST = 65535


@app.command(short_help="Pass ports of this host on to ports of nodes, until Ctrl-C.")
def forward(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[FILE] [ADDRESS:]PORT:NODE:PORT...",
            help="The cluster file; for each port its number here (0: any free one), a node, and "
            "the port of the node.",
        ),
    ],
    cluster: Cluster = None,
) -> None:
    """Pass connections to ports of this host on to ports of nodes, until Ctrl-C.

    It listens on 127.0.0.1, which only this host reaches, unless an ADDRESS is given; IPv6
    addresses are written in brackets. A line for each port is printed as soon as it listens. A
    connection to a node that is off is closed; when the node is up again, new ones reach it.

    Ports that are to be there as long as the cluster runs are named in its file (expose).
    """
    from ai_how.host.port_server import MOST_PORTS
    from ai_how.host.ports import forward as pass_on
    from ai_how.host.ports import listening

    context = context_of(ctx)
    form = _FORM.format(login=context.kind.login)
    file, asked = split_words(words)
    if not asked:
        hint = f"ai-how {context.kind.name} forward --help"
        raise SpecError("no port was named", details=form, hint=hint)
    if len(asked) > MOST_PORTS:
        raise SpecError(f"found {len(asked)} ports; the maximum is {MOST_PORTS}")
    manager = find_manager(context, cluster, file)
    state, place = manager.get_state(), manager.place()
    wanted = [_port(word, state, form) for word in asked]
    if _way_in(place) is None:
        raise HostError("the embedded host is down", hint=f"ai-how {context.kind.name} start")
    with listening(wanted) as listeners:
        found = [line.getsockname()[1] for line in listeners]
        ports = [_at(one, number) for one, number in zip(wanted, found, strict=True)]
        _show(ports, is_json=context.is_json)
        with suppress(Stopped):  # by Ctrl-C: its ordinary end
            pass_on(ports, listeners, lambda: _way_in(place), console.show_warning)


def _port(word: str, state: "ClusterState", form: str) -> "Port":
    """A port as it is asked for, in this form; `host_port` may be 0."""
    from ipaddress import ip_address

    from ai_how.clusters.named_nodes import get_named
    from ai_how.host.ports import Port

    found = _WORD.fullmatch(word)
    if found is None or int(found["here"]) > _HIGHEST or not 0 < int(found["there"]) <= _HIGHEST:
        raise SpecError(f"{word} names no port of a node", details=form)
    asked = found["six"] or found["four"] or "127.0.0.1"
    try:
        address = str(ip_address("127.0.0.1" if asked == "localhost" else asked))
    except ValueError:
        raise SpecError(f"{asked} is no address", details=form) from None
    node = get_named(state, found["node"])
    return Port(node.name, int(found["there"]), address, int(found["here"]), str(node.ip))


def _at(port: "Port", host_port: int) -> "Port":
    from dataclasses import replace

    return replace(port, host_port=host_port)


def _way_in(place: "HypervisorHost") -> "WayIn | None":
    return place.way_in() if place.is_up else None


def _show(ports: "Sequence[Port]", *, is_json: bool) -> None:
    from ai_how.host.ports import is_loopback

    for one in ports:
        if not is_loopback(one.address):
            console.show_warning(
                f"every host that reaches {one.address} reaches port {one.port} of {one.node}"
            )
    if is_json:
        names = ("node", "port", "address", "host_port")
        console.show_json(
            {"ports": [{name: getattr(one, name) for name in names} for one in ports]}
        )
    else:
        for one in ports:
            console.show_line(f"listening: {one}")
