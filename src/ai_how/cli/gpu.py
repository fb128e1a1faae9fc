"""`ai-how gpu`: the GPUs of the host, what VMs can have of them, and the move of one to a node."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.cluster import load_kept, manager_of, of_its_kind
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.errors import HostError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai_how.clusters.manager import ClusterManager
    from ai_how.gpu.abilities import Ability
    from ai_how.gpu.report import Card, Report

MACHINE = Path("/")
NONE = "this host has no GPU"
FOREVER_S = 1e9

app = new_app("List and explain the GPUs of the host, which changes nothing; move one to a node.")


@app.command("list", short_help="List the GPUs, and what a VM can have of each.")
def list_gpus(ctx: typer.Context) -> None:
    """List the GPUs, and whether a VM can have each whole, as vGPU, or with MIG inside."""
    from ai_how.gpu.abilities import Answer, What

    report = _read(ctx)
    if context_of(ctx).is_json:
        console.show_json([_document(card) for card in report.cards])
        return
    if not report.cards:
        console.show_line(NONE)
        return
    console.show_table(
        ("ADDRESS", "CARD", "DRIVER", "WHOLE", "VGPU", "MIG", "DEFINED IN"),
        [
            (
                *(card.gpu.address, card.gpu.name, card.gpu.driver),
                *(_answer(card.ability(what)) for what in What),
                ", ".join(card.defined_in) or None,
            )
            for card in report.cards
        ],
    )
    if any(one.answer is not Answer.YES for card in report.cards for one in card.abilities):
        console.show_line("why, and what can be done: ai-how gpu explain")


@app.command(short_help="Show all that is known of a GPU, and what helps.")
def explain(
    ctx: typer.Context,
    address: Annotated[
        str | None,
        typer.Argument(metavar="[ADDRESS]", help="Such as 65:00.0. Default: all GPUs."),
    ] = None,
) -> None:
    """Show all that is known of a GPU, what stands in its way, and the commands that help."""
    from ai_how.cli.gpu_fields import fields_of
    from ai_how.gpu.inventory import get_gpu

    report = _read(ctx)
    cards = report.cards
    if address is not None:
        gpu = get_gpu(report.machine.gpus, address)
        cards = tuple(card for card in cards if card.gpu is gpu)
    if context_of(ctx).is_json:
        documents = [_document(card) for card in cards]
        console.show_json(documents if address is None else documents[0])
        return
    if not cards:
        console.show_line(NONE)
    for number, card in enumerate(cards):
        if number:
            console.show_line("")
        console.show_fields(fields_of(card, report.machine))
        for one in card.abilities:
            _show_ability(one)


@app.command(short_help="Check what keeps VMs from having the GPUs.")
def doctor(ctx: typer.Context) -> None:
    """Check what keeps VMs from having the GPUs, and which devices did not come back from VMs.

    Each problem has a command.
    """
    from ai_how.clusters.leases import check_leases
    from ai_how.gpu.report import checks_of

    checks = (*checks_of(_read(ctx)), *check_leases(context_of(ctx).roots, MACHINE))
    is_able = not any(check.status == "failure" for check in checks)
    if context_of(ctx).is_json:
        console.show_json({"is_able": is_able, "checks": console.completed_checks(checks)})
    else:
        console.show_checks(checks)
    if not is_able:
        raise typer.Exit(HostError.exit_code)


@app.command(short_help="Give a card to another node: stop, and start, what it takes.")
def move(
    ctx: typer.Context,
    card: Annotated[str, typer.Argument(metavar="CARD", help="Its address, such as 65:00.0.")],
    to: Annotated[str, typer.Option("--to", metavar="CLUSTER/NODE", help="The node that gets it.")],
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", min=0, help="Wait at most S seconds for jobs."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do not wait for jobs.")] = False,
) -> None:
    """Give a card to a node, by the file of its cluster's last start.

    That file must ask for this card, or for a number of cards. The node that runs with the card is
    stopped, and so is the other one if it runs; each takes no new jobs, and its jobs are waited
    for. Jobs that still run after --timeout, or with --force, are requeued if possible.
    """
    from ai_how.clusters.move_card import NodeOf, carry_out, plan_move
    from ai_how.gpu.inventory import get_gpu, read_machine

    if force and timeout is not None:
        raise SpecError("--timeout cannot be used with --force, which does not wait")
    cluster, _, node = to.partition("/")
    if not (cluster and node):
        raise SpecError(f"{to!a} is not CLUSTER/NODE", hint="ai-how gpu move --help")
    context = context_of(ctx)
    machine = read_machine(MACHINE)
    found = get_gpu(machine.gpus, card)
    spec, path = load_kept(of_its_kind(context, cluster), cluster)
    target = NodeOf(_manager(context, cluster), node)
    what = plan_move(
        found,
        target,
        spec,
        path,
        machine=machine,
        manager_of=lambda name: _manager(context, name),
    )
    waits_s = None if force else FOREVER_S if timeout is None else timeout
    if not what.is_done:
        carry_out(what, waits_s=waits_s, tell=_telling(context))
    if context.is_json:
        stopped = [str(one) for one in what.stops]
        console.show_json({"card": found.address, "node": to, "stopped": stopped})
    elif what.is_done:
        console.show_line(f"{to} runs with {found.address} already")
    else:
        console.show_line(f"{to} runs with {found.address}")
        if what.source and str(what.source) != to:
            console.show_line(f"{what.source} is off; to start it again: {what.source.start}")


def _manager(context: Context, name: str) -> "ClusterManager":
    manager = manager_of(of_its_kind(context, name), name, is_named=True)
    return replace(manager, machine=MACHINE)


def _telling(context: Context) -> "Callable[[str], None]":
    return (lambda _line: None) if context.is_json else console.show_line


def _read(ctx: typer.Context) -> "Report":
    from ai_how.gpu.report import read_report

    return read_report(context_of(ctx).roots, MACHINE)


def _document(card: "Card") -> "Card":
    """The card with the commands completed, as they are printed."""
    whole, vgpu, mig = (
        replace(
            one,
            hurdles=tuple(
                replace(hurdle, advice=hurdle.advice and console.completed(hurdle.advice))
                for hurdle in one.hurdles
            ),
        )
        for one in card.abilities
    )
    return replace(card, abilities=(whole, vgpu, mig))


def _answer(ability: "Ability") -> console.Cell:
    from ai_how.gpu.abilities import Answer

    styles = {Answer.YES: console.Style.GOOD, Answer.NOT_NOW: console.Style.WARN}
    return console.Cell(ability.answer.value, styles.get(ability.answer))


def _show_ability(ability: "Ability") -> None:
    told = _answer(ability)
    title = {"whole": "whole", "vgpu": "vGPU", "mig": "MIG"}[ability.what.value]
    console.show_wrapped(f"{title}: {told.text} ({ability.how})", style=told.style)
    for hurdle in ability.hurdles:
        console.show_wrapped(hurdle.text, indent=2)
        if hurdle.advice:
            console.show_line(f"    {hurdle.advice}")
