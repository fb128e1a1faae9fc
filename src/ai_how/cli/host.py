"""`ai-how host`: the embedded host, a private libvirt that needs no root."""

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.kinds import HPC
from ai_how.errors import ConnectionLostError, HostError

if TYPE_CHECKING:
    from ai_how.host.embedded import EmbeddedHost, EmbeddedStatus
    from ai_how.state.paths import Roots

app = new_app("Start, stop and inspect the embedded host: a private libvirt that needs no root.")


@app.command()
def up(ctx: typer.Context) -> None:
    """Start the embedded host; restart its libvirtd if that hangs. Guests keep running."""
    from ai_how.host.place import resolve_host
    from ai_how.libvirt_client.client import LibvirtClient

    context = context_of(ctx)
    host = _embedded(context.roots)
    resolve_host("embedded", context.roots).ensure_up(context.roots)
    with LibvirtClient(host.uri, is_kept=True) as client:
        try:
            client.version()
        except ConnectionLostError as error:
            console.show_warning(f"{error.brief}; restarting libvirtd; guests keep running")
            host.restart_daemon()
            client.close()
            client.version()
    _show(host.status(), is_json=context.is_json)


@app.command()
def down(
    ctx: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="Also while VMs run: they are powered off.")
    ] = False,
) -> None:
    """Stop the embedded host. Disks and definitions are kept, nothing else."""
    context = context_of(ctx)
    host = _embedded(context.roots)
    if not force:
        _refuse_while_vms_run(host)
    host.down()
    _show(host.status(), is_json=context.is_json)


@app.command()
def status(ctx: typer.Context) -> None:
    """Show whether the embedded host is up, and where its files are."""
    context = context_of(ctx)
    _show(_embedded(context.roots).status(), is_json=context.is_json)


@app.command(hidden=True)
def connect(
    ctx: typer.Context,
    address: Annotated[IPv4Address, typer.Argument(parser=IPv4Address)],
    port: Annotated[int, typer.Argument(min=1, max=65535)],
) -> None:
    """Connect stdin and stdout to a port of a guest, as the ProxyCommand of ssh."""
    from ai_how.host.connect import relay_argv
    from ai_how.process import become

    become(relay_argv(_embedded(context_of(ctx).roots), str(address), port))


def _embedded(roots: "Roots") -> "EmbeddedHost":
    from ai_how.host.embedded import EmbeddedHost

    return EmbeddedHost(roots.embedded)


def _refuse_while_vms_run(host: "EmbeddedHost") -> None:
    if not host.status().is_up:
        return
    from ai_how.libvirt_client.client import LibvirtClient

    with LibvirtClient(host.uri) as client:
        on = sorted(
            (one for one in client.list_domains() if one.state.is_on), key=lambda one: one.name
        )
    if on:
        marks = [one.mark for one in on if one.mark]
        kind = marks[0].kind if marks else None
        raise HostError(
            f"{'a VM is' if len(on) == 1 else f'{len(on)} VMs are'} running on the embedded host",
            details="\n".join(one.name for one in on),
            hint=f"ai-how {kind or HPC.name} stop  # or: ai-how host down --force",
        )


def _show(seen: "EmbeddedStatus", *, is_json: bool) -> None:
    if is_json:
        console.show_json(seen)
        return
    console.show_fields(
        {
            "embedded host": "up" if seen.is_up else "down",
            "pid": seen.pid,
            "uri": seen.uri if seen.is_up else None,
            "kvm": ("yes" if seen.has_kvm else "no") if seen.is_up else None,
            "uplink": (seen.uplink_trouble or "yes") if seen.is_up else None,
            "persists": seen.persistent or None,
        }
    )
