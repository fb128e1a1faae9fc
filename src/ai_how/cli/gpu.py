"""`ai-how gpu`: the GPUs of the host, what they can give to VMs, and what stands in the way."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.errors import HostError

if TYPE_CHECKING:
    from ai_how.gpu.abilities import Ability
    from ai_how.gpu.report import Card, Report

MACHINE = Path("/")
NONE = "this host has no GPU"

app = new_app("List and explain the GPUs of the host. These verbs change nothing.")


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
